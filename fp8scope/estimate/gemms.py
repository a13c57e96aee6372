"""The matmuls of an engine: which linears of the files, or of a plan, are one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from fp8scope.artefacts.plan import Plan
from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.planned import planned_model
from fp8scope.core.modules import Module, Treatment
from fp8scope.core.roofline import GemmShape
from fp8scope.errors import Stale
from fp8scope.estimate.served import Gemm

_EXPERT = re.compile(r"\.experts\.(\d+)\.([^.]+)$")


def gemms_of(modules: Iterable[Module], tensors: Mapping[str, TensorEntry]) -> tuple[Gemm, ...]:
    """Of the linears of files: fused groups, and stacks of experts, in their order.

    Members of a group that are stored in different ways are matmuls of their own.
    """
    parts: dict[tuple[str, Treatment], list[Module]] = defaultdict(list)
    for module in modules:
        name = module.runtime if module.kind == "expert" else module.group
        parts[name, module.wanted or "bf16"].append(module)
    return tuple(
        _stack(name, own, found, tensors)
        if found[0].kind == "expert"
        else _fused(name, own, found, tied=f"{found[0].name}.weight" not in tensors)
        for (name, own), found in parts.items()
    )


def gemms_of_plan(plan: Plan) -> tuple[Gemm, ...]:
    """Of a plan's modules, in what it gives them."""
    known = {module.runtime: module for module in planned_model(plan).modules}
    parts: dict[tuple[str, Treatment], list[Module]] = defaultdict(list)
    experts, tied = {}, set()
    for linear in plan.modules:
        module = replace(
            known[linear.name], out_features=linear.out_features, in_features=linear.in_features
        )
        name = linear.name if linear.experts else linear.group
        parts[name, module.wanted or "bf16"].append(module)
        experts[name] = linear.experts
        if linear.tied_to:
            tied.add(name)
    return tuple(
        _fused(name, own, found, experts=experts[name], tied=name in tied)
        for (name, own), found in parts.items()
    )


def planned(modules: Sequence[Module], plan: Plan) -> tuple[Module, ...]:
    """The linears of files, wanted in what the plan gives them.

    Raises Stale where the plan is of a model of another shape.
    """
    remedy = "give the model that the plan was made for with --model"
    wanted = {module.name: module for module in planned_model(plan).modules}
    by_runtime = {module.runtime: module for module in wanted.values()}
    found = []
    for module in modules:
        asked = wanted.get(module.name) or by_runtime.get(module.runtime)
        if asked and module.name in wanted and _shape(asked) != _shape(module):
            what = f"{module.name} is {_shape(module)} in the files and {_shape(asked)} in the plan"
            raise Stale(what, remedy)
        found.append(replace(module, wanted=asked.wanted if asked else "bf16"))
    if missing := {m.runtime for m in wanted.values()} - {m.runtime for m in modules}:
        raise Stale(f"the model has no {min(missing)}, which the plan is about", remedy)
    return tuple(found)


def _shape(module: Module) -> tuple[int, int]:
    return module.out_features, module.in_features


def _fused(
    name: str, own: Treatment, members: Sequence[Module], *, experts: int = 0, tied: bool = False
) -> Gemm:
    kind = members[0].kind
    out = sum(module.out_features for module in members)
    shape = GemmShape(members[0].in_features, out, experts, sampled=kind == "lm_head")
    return Gemm(name, kind, shape, own, tied)


def _stack(
    name: str, own: Treatment, members: Sequence[Module], tensors: Mapping[str, TensorEntry]
) -> Gemm:
    """Experts that lie apart in the files, or in one tensor [experts, out, in]."""
    numbers, rows = set(), {}
    for module in members:
        if match := _EXPERT.search(module.name):
            numbers.add(match[1])
            rows[match[2]] = module.out_features
        else:
            tensor = tensors.get(module.name) or tensors[f"{module.name}.weight"]
            numbers.update(map(str, range(tensor.shape[0])))
            rows[""] = module.out_features
    shape = GemmShape(members[0].in_features, sum(rows.values()), len(numbers))
    return Gemm(name, "expert", shape, own)
