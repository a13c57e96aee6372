"""Folds of a plan, held against the model's own before any is made."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from fp8scope.artefacts.plan import Plan
from fp8scope.build.folds import check_folds
from fp8scope.core.structure import Structure
from fp8scope.errors import BadInput
from tests.build.planned import MIX, mixed_plan, scanned


@cache
def planned(name: str) -> tuple[Plan, Structure]:
    return mixed_plan(scanned(name))[0], scanned(name).profile.structure


def changed(change: Any) -> tuple[Plan, Structure]:
    """Llama's plan with its list of folds, as data, edited in place."""
    plan, structure = planned("llama")
    data = plan.model_dump(mode="json")
    change(data["folds"])
    return Plan.model_validate(data), structure


@pytest.mark.parametrize("name", ["llama", "mixtral", "phi3", "gpt_neox", "deepseek_v3", "opt"])
@pytest.mark.parametrize("mix", [MIX, ("fp8_smooth",)])
def test_what_was_planned_passes(name: str, mix: tuple[str, ...]) -> None:
    plan, _ = mixed_plan(scanned(name), mix)
    assert plan.folds
    check_folds(plan, scanned(name).profile.structure)


def test_a_fold_that_has_lost_a_reader() -> None:
    """The norm would be divided, and k and v not multiplied: another model, in silence."""
    plan = changed(lambda folds: folds[0].update(consumers=folds[0]["consumers"][:1]))
    match = r"folds model\.layers\.0\.input_layernorm into model\.layers\.0\.self_attn\.q_proj, wh"
    with pytest.raises(BadInput, match=match):
        check_folds(*plan)


def test_a_fold_that_is_made_twice() -> None:
    with pytest.raises(BadInput, match="makes one fold twice"):
        check_folds(*changed(lambda folds: folds.append(folds[0])))


def test_scales_of_a_smoothing_that_is_not_made() -> None:
    match = r"those of model\.layers\.0\.self_attn\.o_proj after smoothing, .* not fold .*v_proj"
    with pytest.raises(BadInput, match=match):
        check_folds(*changed(lambda folds: folds.pop()))
    with pytest.raises(BadInput, match=match):
        check_folds(*changed(lambda folds: folds[-1].update(alpha=0.75)))
