"""Static scales: of inputs as the plan says, of weights as an engine has them at load.

An engine that runs q, k and v as one GEMM keeps one scale for all three, the largest, and rounds
the weights of the others anew. So one scale is written for all members, and nothing is rounded
twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from fp8scope.artefacts.plan import Group, Module, Plan
from fp8scope.checkpoint.planned import planned_model
from fp8scope.core.formats import E4M3
from fp8scope.errors import BadInput, Stale
from fp8scope.runtime.linears import linear_weights

STATIC = ("fp8_tensor", "fp8_smooth")


@dataclass(frozen=True)
class Static:
    """Dequantization scales of one linear: largest |W| of its GEMM and largest |x|, by 448."""

    weight: float
    input: float


def static_scales(model: nn.Module, plan: Plan) -> dict[str, tuple[Static, ...]]:
    """Of every linear that runs with static scales, by its runtime name: one entry, or of stacked
    experts one for each.

    `model` has its smoothing folded. Raises Stale where it lacks a linear of the plan, BadInput for
    a plan without the input scale of one.
    """
    weights = linear_weights(model)
    modules = {module.name: module for module in plan.modules}
    found: dict[str, tuple[Static, ...]] = {}
    for group in plan.groups:
        if group.precision in STATIC:
            found.update(_of_group(group, modules, weights))
    return found


def _of_group(
    group: Group, modules: dict[str, Module], weights: dict[str, Tensor]
) -> Iterator[tuple[str, tuple[Static, ...]]]:
    for scale in group.scales:
        for name in scale.members:
            if name not in weights:
                raise Stale(f"the model has no {name}, which the plan runs in FP8", "plan it anew")
        amax = [_amax(weights[name], modules[name].experts) for name in scale.members]
        together = tuple(
            Static(float(E4M3.scale(max(each))), float(E4M3.scale(scale.input_amax)))
            for each in zip(*amax, strict=True)
        )
        yield from dict.fromkeys(scale.members, together).items()
    lacking = set(group.members) - {name for scale in group.scales for name in scale.members}
    if lacking:
        raise BadInput(f"the plan has no input scale of {min(lacking)}", "make it anew")


def _amax(weight: Tensor, experts: int) -> list[float]:
    """Largest |W|; of stacked experts of each by itself."""
    each = weight if experts else weight[None]
    largest: list[float] = [float(one.abs().max()) for one in each.detach()]
    return largest


def in_files(plan: Plan, scales: Mapping[str, tuple[Static, ...]]) -> dict[str, Static]:
    """The same by the names of the files, where experts mostly lie apart: those of
    `planned_model(plan)`.
    """
    shards = {module.name: max(1, len(module.checkpoint_shards)) for module in plan.modules}
    number: Counter[str] = Counter()
    found = {}
    for module in planned_model(
        plan
    ).modules:  # of stacked experts, all shards of one, then the next
        if module.runtime in scales:
            each = scales[module.runtime]
            expert = number[module.runtime] // shards[module.runtime]
            found[module.name] = each[min(expert, len(each) - 1)]
            number[module.runtime] += 1
    return found
