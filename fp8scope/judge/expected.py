"""What a checkpoint leads one to expect: its fused groups, how each was planned and is stored.

From headers, config.json and the plan.json that a build leaves beside them; no weights are loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import read_plan
from fp8scope.artefacts.verdict import ModelId
from fp8scope.checkpoint.declaration import Declaration
from fp8scope.checkpoint.doctor.scale_names import cache_scales
from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.identity import config_hash, weights_hash
from fp8scope.checkpoint.inventory import Inventory, read_inventory
from fp8scope.checkpoint.linears import linears
from fp8scope.checkpoint.planned import planned_model
from fp8scope.core.gemms import USUAL_EXPERTS_PER_TOKEN, experts_per_token
from fp8scope.core.modules import Kind, Module
from fp8scope.core.roofline import GemmShape
from fp8scope.errors import Stale
from fp8scope.estimate.geometry import size, text_config
from fp8scope.judge.metadata import CONFIG, Denied, declarations, denied, not_quantized

PLAN = "plan.json"
SIDE = 16
"""FP8 GEMMs take sides that are multiples of it."""
_CONTEXT = ("max_position_embeddings", "n_positions")
_KEYS = {"k_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "kv_a_proj_with_mqa"}


@dataclass(frozen=True)
class ExpectedGroup:
    """A fused group. `members` are runtime names, of routed experts the stacks. `planned` and
    `stored` are treatments, "mixed" where members differ. `gemms`: what a fusing engine runs.
    `linears`: as they lie in the files. `listed`: those that the metadata says are not quantized;
    None where there is none that is read here.
    """

    name: str
    kind: Kind
    members: tuple[str, ...]
    planned: str
    stored: str
    gemms: tuple[GemmShape, ...]
    linears: tuple[Module, ...]
    listed: tuple[str, ...] | None = None

    @property
    def expected(self) -> bool:
        """Whether its GEMMs must run in FP8."""
        return self.planned.startswith("fp8")

    @property
    def stored_fp8(self) -> bool:
        """Whether all of it is FP8 in the files."""
        return self.stored.startswith("fp8")

    @property
    def odd(self) -> Module | None:
        """A linear with a side that FP8 GEMMs do not take."""
        sides = ((m, (m.out_features, m.in_features)) for m in self.linears)
        return next((m for m, each in sides if any(side % SIDE for side in each)), None)


@dataclass(frozen=True)
class ExpectedCache:
    """The KV cache of a layer, filled by the module `attention`."""

    name: str
    attention: str
    planned: Literal["fp8", "bf16"]


@dataclass(frozen=True)
class Expected:
    """`has_plan`: a plan.json lies in the folder; else what is stored is what was planned.
    `context`: the most tokens that the model takes, None where its config does not say. `denied`:
    linears in FP8 of which the metadata says otherwise.
    """

    folder: str
    model: ModelId
    has_plan: bool
    groups: tuple[ExpectedGroup, ...]
    caches: tuple[ExpectedCache, ...]
    experts_per_token: int = USUAL_EXPERTS_PER_TOKEN
    context: int | None = None
    denied: tuple[Denied, ...] = ()

    @cached_property
    def group_of(self) -> Mapping[str, str]:
        """Group by the names that engines may tag its modules with: its members, and the fused
        module (`….qkv_proj` of the group `….qkv`).
        """
        names: dict[str, str] = {}
        for group in self.groups:
            own = (group.name, f"{group.name}_proj", *group.members)
            names |= {name: group.name for name in own if name not in names}
        return names

    @cached_property
    def cache_of(self) -> Mapping[str, str]:
        """KV cache by the attention module that fills it."""
        return {cache.attention: cache.name for cache in self.caches}


def read_expected(folder: Path) -> Expected:
    """Of a checkpoint folder, quantized or not.

    Raises BadModel (no model there, broken files), what reading a plan raises, and Stale where the
    plan beside the files is of another model.
    """
    inventory = read_inventory(folder)
    config = _config(folder)
    stored = linears(inventory, config)
    every = declarations(folder, config)
    said = every[0] if every else None
    against = tuple(denied(stored, every))
    chosen = experts_per_token(config) or USUAL_EXPERTS_PER_TOKEN
    context = size(text_config(config), *_CONTEXT) or None
    tensors = {tensor.name: tensor for tensor in inventory.tensors}
    if (folder / PLAN).is_file():
        plan = read_plan(folder / PLAN)
        of = plan.model
        return Expected(
            str(folder),
            ModelId(name=of.name, config_hash=of.config_hash, weights_hash=of.weights_hash),
            True,
            tuple(_planned_groups(plan, stored, said, folder)),
            tuple(ExpectedCache(c.name, c.attention, c.precision) for c in plan.kv_cache),
            chosen,
            context,
            against,
        )
    return Expected(
        str(folder),
        _own_id(folder, inventory),
        False,
        tuple(_stored_groups(stored, said, tensors)),
        tuple(_stored_caches(stored, said, tensors)),
        chosen,
        context,
        against,
    )


def _config(folder: Path) -> dict[str, Any]:
    config_hash(folder)  # refuses what is no config.json
    config: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
    return config


def _own_id(folder: Path, inventory: Inventory) -> ModelId:
    name = folder.resolve().name
    return ModelId(name=name, config_hash=config_hash(folder), weights_hash=weights_hash(inventory))


def _planned_groups(
    plan: Plan, stored: tuple[Module, ...], said: Declaration | None, folder: Path
) -> Iterator[ExpectedGroup]:
    by_runtime: dict[str, list[Module]] = {}
    for module in stored:
        by_runtime.setdefault(module.runtime, []).append(module)
    by_name = {module.name: [module] for module in stored}
    wanted: dict[str, list[Module]] = {}
    for module in planned_model(plan).modules:
        wanted.setdefault(module.runtime, []).append(module)
    shapes = {linear.name: linear for linear in plan.modules}
    for group in plan.groups:
        files = []
        for member in group.members:
            asked = wanted[member]
            found = [each for module in asked for each in by_name.get(module.name, ())]
            found = found or by_runtime.get(member, [])
            if not found:
                what = f"{folder} has no {asked[0].name}, which its {PLAN} is about"
                raise Stale(what, "build it again, or take the plan out of the folder")
            files += found
        parts = [shapes[name] for name in group.members]
        planned = "fp8_tensor" if group.precision == "fp8_smooth" else group.precision
        yield ExpectedGroup(
            group.name,
            wanted[group.members[0]][0].kind,
            group.members,
            planned,
            _common(module.wanted or "bf16" for module in files),
            _gemms([(p.in_features, p.out_features, p.experts) for p in parts], group.members),
            tuple(files),
            not_quantized(files, said),
        )


def _stored_groups(
    stored: tuple[Module, ...], said: Declaration | None, tensors: Mapping[str, TensorEntry]
) -> Iterator[ExpectedGroup]:
    groups: dict[str, list[Module]] = {}
    for module in stored:
        groups.setdefault(_runtime_group(module), []).append(module)
    for name, modules in groups.items():
        members: dict[str, list[Module]] = {}
        for module in modules:
            members.setdefault(module.runtime, []).append(module)
        shapes = [_shape(parts, tensors) for parts in members.values()]
        treatment = _common(module.wanted or "bf16" for module in modules)
        yield ExpectedGroup(
            name,
            modules[0].kind,
            tuple(members),
            treatment,
            treatment,
            _gemms(shapes, tuple(members)),
            tuple(modules),
            not_quantized(modules, said),
        )


def _runtime_group(module: Module) -> str:
    """Of experts that the files name otherwise than transformers does, by the latter's name."""
    return module.runtime.rpartition(".")[0] if module.kind == "expert" else module.group


def _shape(parts: list[Module], tensors: Mapping[str, TensorEntry]) -> tuple[int, int, int]:
    """in, out and experts of one runtime module, from its parts in the files."""
    first = parts[0]
    if first.kind != "expert":
        return first.in_features, first.out_features, 0
    tensor = tensors.get(first.name) or tensors.get(f"{first.name}.weight")
    if tensor is not None and len(tensor.shape) == 3:
        return first.in_features, first.out_features, tensor.shape[0]
    kinds = {module.name.rpartition(".")[2]: module.out_features for module in parts}
    return first.in_features, sum(kinds.values()), len(parts) // len(kinds)


def _gemms(shapes: list[tuple[int, int, int]], members: tuple[str, ...]) -> tuple[GemmShape, ...]:
    """One of linears that read one input; of experts one per stack."""
    if any(experts for _, _, experts in shapes):
        return tuple(GemmShape(*shape) for shape in shapes)
    sampled = members[0].rpartition(".")[2] in {"lm_head", "embed_out"}
    return (GemmShape(shapes[0][0], sum(out for _, out, _ in shapes), sampled=sampled),)


def _stored_caches(
    stored: tuple[Module, ...], said: Declaration | None, tensors: Mapping[str, TensorEntry]
) -> Iterator[ExpectedCache]:
    """Those that the metadata says are in FP8, or that have scales in the files."""
    scaled = {scale.attention for scale in cache_scales(tensors)}
    attentions = dict.fromkeys(
        module.runtime.rpartition(".")[0]
        for module in stored
        if module.runtime.rpartition(".")[2] in _KEYS
    )
    everywhere = said is not None and said.kv_cache in {"fp8", "fp8_dynamic"}
    for attention in attentions:
        fp8 = everywhere or attention in scaled
        yield ExpectedCache(f"{attention}.kv_cache", attention, "fp8" if fp8 else "bf16")


def _common(treatments: Iterable[str]) -> str:
    found = set(treatments)
    return found.pop() if len(found) == 1 else "mixed"
