"""A sentence tells the cost and the time of one candidate, of those that were allowed."""

from __future__ import annotations

import pytest

from fp8scope.artefacts.plan import Group
from fp8scope.core.gemms import units
from fp8scope.plan.make import make_plan
from fp8scope.plan.settings import PlanSettings
from tests.plan import invented
from tests.plan.invented import group

DOWN = group(0, "down")


def planned(**settings: object) -> Group:
    """Plain FP8 costs the group 0.2 nats, any remedy 0.1; and BF16 is all that is left to it."""
    profile = invented.with_nats(invented.profile(), invented.plain({DOWN: 0.2}, remedy=0.5))
    plan, _ = make_plan(profile, PlanSettings(max_kl=0.03, **settings))  # type: ignore[arg-type]
    return next(each for each in plan.groups if each.name == DOWN)


@pytest.mark.parametrize("name", ["fp8_tensor", "fp8_token", "fp8_block"])
def test_what_bf16_takes_more_is_told_of_the_candidate_that_is_named(name: str) -> None:
    found = planned(candidates=(name,))
    profile = invented.profile()
    cost = invented.cost(profile)
    unit = next(unit for unit in units(profile.structure) if unit.name == DOWN)
    assert found.precision == "bf16"
    assert found.evidence.fp8_time_us == cost.time_us(unit, name)
    more = found.evidence.bf16_time_us - found.evidence.fp8_time_us
    assert f"{abs(more):.3g} µs of a step {'more' if more >= 0 else 'less'}" in found.reason
