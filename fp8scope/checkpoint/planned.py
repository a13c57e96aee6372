"""A plan by the names of the files: every linear as it lies there, and what it should run in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fp8scope.artefacts.plan import Module as PlanModule
from fp8scope.artefacts.plan import Plan
from fp8scope.core.modules import Kind, Model, Module, Treatment
from fp8scope.errors import BadInput


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
