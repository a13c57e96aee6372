"""What a fold would make too large for the model's dtype is offered to nobody."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fp8scope.analyze.scales import Scales
from fp8scope.core.choices import Term
from fp8scope.plan.planner import Asked, Planner
from fp8scope.plan.range import Range
from fp8scope.profile.record import Profile
from tests.plan import invented
from tests.plan.invented import group, member
from tests.profiles import weight_record

UP, DOWN = group(0, "gate_up"), group(0, "down")


def steep(dtype: str) -> Profile:
    """Down's column 0 holds 60000, so that up's row 0, with 1000, is divided by a thousandth."""
    of = invented.profile(blocks=1)
    up, down = np.full((2, 8, 8), 0.5, np.float32)
    up[0], down[:, 0] = 1000.0, 59904.0
    weights = dict(of.weights) | {
        member(0, "up"): weight_record(up),
        member(0, "down"): weight_record(down),
    }
    return replace(of, weights=weights, settings=of.settings | {"dtype": dtype})


def in_range(profile: Profile) -> Range:
    return Range(profile, Scales(profile))


@pytest.mark.parametrize(("dtype", "holds"), [("float16", False), ("bfloat16", True)])
@pytest.mark.parametrize(
    "term", [Term(DOWN, "fp8_smooth", 0.25), Term(UP, "fp8_tensor", folded=0.25)]
)
def test_both_sides_of_a_fold_are_asked(term: Term, dtype: str, holds: bool) -> None:
    assert in_range(steep(dtype)).holds(term) is holds
    assert in_range(steep(dtype)).holds(Term(term.group, "fp8_tensor"))


def test_a_producer_is_not_folded_by_what_overflows() -> None:
    """Not even where its reader is in BF16."""
    of = invented.with_nats(steep("float16"), invented.plain({}, 0.1, 0.01))
    maker = Planner(of, invented.cost(of), Asked(excluded=frozenset({DOWN})))
    ways = [way.terms for own in maker.problem(cache=False).ways for way in own]
    folded = {term.folded for terms in ways for term in terms if term.group == UP}
    assert 0.25 not in folded
