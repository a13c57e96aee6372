"""Why a group cannot run in what a person asks for."""

from __future__ import annotations

from collections.abc import Sequence

from fp8scope.core.gemms import routers, units
from fp8scope.core.schemes import CANDIDATES
from fp8scope.errors import BadInput
from fp8scope.plan.cost import BF16
from fp8scope.plan.planner import Planner


def refusal(planner: Planner, options: Sequence[str], name: str, precision: str) -> BadInput:
    """To be raised. `options` are what the group may run in; none where it is not decided on."""
    structure = planner.profile.structure
    members = {group.name: group.members for group in structure.groups}
    left = routers(structure)
    if name in left or (name in members and set(members[name]) <= left):
        return BadInput(f"{name} is a router: no engine quantizes those")
    if any(layer.group == name for layer in structure.kv_layers):
        what = f"{name}: engines keep the KV caches of all layers in one format"
        return BadInput(what, "change all of them together")
    if any(unit.name == name for unit in planner.left_out):
        what = f"{name} stays in BF16 unless it is asked for"
        return BadInput(what, f"plan with --keep {name}, and open that plan")
    if name not in members:
        return BadInput(f"there is no fused group {name}")
    if name in planner.unseen:
        what = f"the text never reached {name}: nothing is known of it in FP8"
        return BadInput(what, "scan with text that does")
    return _not_scored(planner, options, name, precision)


def _not_scored(planner: Planner, options: Sequence[str], name: str, precision: str) -> BadInput:
    candidate = CANDIDATES.get(precision)
    if candidate is None and precision != BF16:
        return BadInput(f"there is no precision {precision}", f"one of {', '.join(options)}")
    unit = next(unit for unit in units(planner.profile.structure) if unit.name == name)
    others = [each for each in options if each != precision]
    remedy = f"it may run in {', '.join(others)}" if others else "scan again with --sensitivity"
    if candidate and candidate.smooth and not unit.smoothable:
        return BadInput(f"{name} cannot be smoothed: nothing before it takes the factors", remedy)
    if precision in {term.candidate for term in planner.scores.terms() if term.group == name}:
        what = f"{name} in {precision} gives no finite numbers, or its folds would overflow"
        return BadInput(what, remedy)
    return BadInput(f"{name} was not scored in {precision}", remedy)
