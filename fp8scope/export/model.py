"""What an exclusion list is about: every linear as it lies in the files, and what it should run in.

Three name spaces meet here. Transformers' modules (`…mlp.experts.gate_up_proj`) are what a plan and
a recipe name; the files' (`…block_sparse_moe.experts.3.w1`) are what the metadata of a checkpoint
names; an engine's own (`…self_attn.qkv_proj`) are made from those by the consumer that has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from fp8scope.artefacts.plan import Module as PlanModule
from fp8scope.artefacts.plan import Plan
from fp8scope.core.modules import WORDS, Kind, Module, Treatment
from fp8scope.errors import BadInput

__all__ = ["WORDS", "KVCache", "Kind", "Model", "Module", "Treatment", "planned_model"]

KVCache = Literal["bf16", "fp8", "mixed"]


@dataclass(frozen=True)
class Model:
    """The linears of a model, in module order, and what applies to all of it.

    `architecture` is the class in config.json (`LlamaForCausalLM`). `folded`: smoothing must be
    folded into the weights before anything is quantized.
    """

    name: str
    architecture: str
    model_type: str
    modules: tuple[Module, ...]
    kv_cache: KVCache = "bf16"
    folded: bool = False

    def wanted(self) -> set[Treatment]:
        """Every treatment that some module should get."""
        return {module.wanted for module in self.modules if module.wanted is not None}

    def in_treatment(self, treatment: Treatment) -> list[Module]:
        """The modules that should get it, in module order."""
        return [module for module in self.modules if module.wanted == treatment]

    def with_wanted(self, choose: Callable[[Module], Treatment | None]) -> Model:
        """The same modules, with `choose(module)` as what they should run in."""
        return replace(self, modules=tuple(replace(m, wanted=choose(m)) for m in self.modules))


def planned_model(plan: Plan) -> Model:
    """The linears of a plan. Raises BadInput where two of its modules share a name in the files."""
    precision = {name: g.precision for g in plan.groups for name in g.members}
    decided = {name: g.decided for g in plan.groups for name in g.members}
    modules = []
    for linear in plan.modules:
        planned = precision.get(linear.name, "bf16")
        wanted: Treatment = "fp8_tensor" if planned == "fp8_smooth" else planned
        is_router = not linear.experts and not decided.get(linear.name, True)
        for name in _file_names(linear):
            modules.append(
                Module(
                    name=name,
                    runtime=linear.name,
                    group=linear.group,
                    kind=_kind(linear, undecided=is_router),
                    out_features=linear.out_features // max(1, len(linear.checkpoint_shards)),
                    in_features=linear.in_features,
                    wanted=wanted,
                )
            )
    _check_unique(module.name for module in modules)
    caches = {cache.precision for cache in plan.kv_cache}
    return Model(
        name=plan.model.name,
        architecture=plan.model.architecture,
        model_type=plan.model.model_type,
        modules=tuple(modules),
        kv_cache="mixed" if len(caches) > 1 else next(iter(caches), "bf16"),
        folded=bool(plan.folds),
    )


def _file_names(linear: PlanModule) -> Iterator[str]:
    """Without `.weight`; of experts that lie apart in the files, each by itself."""
    if linear.checkpoint_shards:
        for expert in range(linear.experts):
            for shard in linear.checkpoint_shards:
                yield shard.format(expert).removesuffix(".weight")
    elif linear.checkpoint_weight is not None and linear.tied_to is None:
        yield linear.checkpoint_weight.removesuffix(".weight")
    else:
        yield linear.name


def _kind(linear: PlanModule, *, undecided: bool) -> Kind:
    if linear.experts:
        return "expert"
    if linear.name.rsplit(".", 1)[-1] in {"lm_head", "embed_out"}:
        return "lm_head"
    return "router" if undecided else "linear"


def _check_unique(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadInput(f"two modules of the plan lie in {name}", "plan from a new scan")
        seen.add(name)
