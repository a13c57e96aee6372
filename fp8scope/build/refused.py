"""What no format can hold, refused by name: plans before anything is loaded, weights after it."""

from __future__ import annotations

from torch import nn

from fp8scope.artefacts.plan import Plan
from fp8scope.checkpoint.planned import planned_model
from fp8scope.core.modules import WORDS
from fp8scope.errors import BadInput
from fp8scope.export.matchers.fused_layers import fused_layers
from fp8scope.runtime.linears import linear_weights

EXCLUDE = "plan it in BF16 (--exclude)"


def check_buildable(plan: Plan) -> None:
    """Raise BadInput for what has no weight of its own, is stored in another way than engines read
    it, or is planned in several ways and run as one by engines.
    """
    if not _in_fp8(plan):
        what = "the plan runs nothing in FP8, so there is nothing to build"
        raise BadInput(what, "plan with another budget, --candidates, or --keep '*layers*'")
    _refuse_modules(plan)
    _refuse_splits(plan)


def check_weights(model: nn.Module, plan: Plan) -> None:
    """Raise BadInput for a weight of zeros that is planned in FP8: no scale is that of zeros."""
    weights, experts = linear_weights(model), {each.name: each.experts for each in plan.modules}
    for name in sorted(_in_fp8(plan) & weights.keys()):
        for number, weight in enumerate(weights[name] if experts[name] else weights[name][None]):
            if not (weight[0].any() or weight.any()):
                whose = f"expert {number} of {name}" if experts[name] else name
                raise BadInput(f"the weight of {whose} is all zero", EXCLUDE)


def _in_fp8(plan: Plan) -> set[str]:
    return {name for group in plan.groups if group.precision != "bf16" for name in group.members}


def _refuse_modules(plan: Plan) -> None:
    in_fp8 = _in_fp8(plan)
    for module in plan.modules:
        if module.name not in in_fp8:
            continue
        if module.tied_to is not None:
            what = f"{module.name} has no weight of its own: it is that of {module.tied_to}"
            raise BadInput(what, EXCLUDE)
        if module.experts and not module.checkpoint_shards:
            what = f"{module.name} holds all experts in one tensor, and engines want each by itself"
            raise BadInput(what, EXCLUDE)
        if module.transposed:
            what = f"{module.name} is a Conv1D, stored as [in, out], which no engine runs in FP8"
            raise BadInput(what, EXCLUDE)


def _refuse_splits(plan: Plan) -> None:
    """A model of no known family has no fused groups in its plan; engines fuse it all the same."""
    for layer in fused_layers(planned_model(plan).modules, lambda name: name):
        found = {module.wanted or "other": module.name for module in layer.modules}
        if len(found) > 1:
            (first, one), (second, other), *_ = found.items()
            what = f"{one} is planned in {WORDS[first]} and {other} in {WORDS[second]}"
            remedy = "--exclude both, or plan with one of --candidates alone"
            raise BadInput(f"{what}: engines run them as one", remedy)
