"""From a plan to the linears of the files."""

from __future__ import annotations

import pytest

from fp8scope.checkpoint.planned import planned_model
from tests.export import plans, shapes

SHAPES = {"llama": shapes.llama, "mixtral": shapes.mixtral, "phi3": shapes.phi3}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_plan_names_every_linear_of_the_files(shape: str) -> None:
    model = shapes.planned(SHAPES[shape](), "fp8_token", bf16=["model.layers.1.mlp.experts"])
    assert set(planned_model(plans.plan_of(model)).modules) == set(model.modules)


def test_smoothed_groups_run_as_plain_fp8_once_they_are_folded() -> None:
    plan = plans.plan_of(shapes.planned(shapes.llama(), "fp8_tensor"))
    groups = tuple(g.model_copy(update={"precision": "fp8_smooth"}) for g in plan.groups[:2])
    smoothed = plan.model_copy(update={"groups": (*groups, *plan.groups[2:])})
    assert planned_model(smoothed) == planned_model(plan)
