"""What a preset's budget is, where a group was asked to be in FP8 whatever it costs."""

from __future__ import annotations

import pytest

from fp8scope.plan.objective import PRESETS, Limit, Objective, Preset, budget
from fp8scope.plan.problem import Way
from fp8scope.plan.solver import solve

BF16 = Way((), 0.0, 2.0, 16.0)


def fp8(kl: float) -> Way:
    return Way((), kl, 1.0, 8.0)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_kept_group_is_in_the_budget_whatever_it_costs(preset: Preset) -> None:
    """40 groups of 0.001 nats; one of 3 nats either may stay in BF16, or may not."""
    benign = [[fp8(0.001), BF16] for _ in range(40)]
    free, kept = [*benign, [fp8(3.0), BF16]], [*benign, [fp8(3.0)]]
    assert budget(preset, free, free) < 0.2
    value = budget(preset, free, kept)
    assert value == pytest.approx(preset.times * 3.04)
    assert solve(kept, Objective(Limit.KL, value)) is not None
