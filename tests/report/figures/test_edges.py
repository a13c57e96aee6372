"""What is odd is drawn somewhere, or left out: never NaN, never a figure without a number."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest

from fp8scope.artefacts.plan import Nats
from fp8scope.core.choices import Term
from fp8scope.core.sites import Role, Site
from fp8scope.report.document.blocks import Figure
from fp8scope.report.figures.convergence import convergence
from fp8scope.report.figures.costs import worst_groups
from fp8scope.report.figures.frontier import frontier
from fp8scope.report.figures.headroom import headroom_matrix, site_headroom
from fp8scope.report.figures.heatmap import heatmap
from fp8scope.report.figures.magnitudes import magnitudes
from fp8scope.report.findings import FEWEST_NATS
from fp8scope.report.snapshot import opened
from tests.plan import invented
from tests.profiles import Q_INPUT, K, Q, build, weight_record
from tests.report.figures.subjects import demo_with_plan, whole
from tests.tui.browsing import llama

DOWN = invented.group(0, "down")


def is_json(figure: Figure) -> None:
    json.dumps(
        [{"data": view.data, "layout": view.layout} for view in figure.views], allow_nan=False
    )


def test_without_scores_nothing_is_ranked_and_the_heatmap_begins_with_sqnr() -> None:
    snapshot = whole(invented.profile())
    assert worst_groups(snapshot) is None
    assert heatmap(snapshot).views[0].title == "body SQNR"


def test_one_tag_has_no_matrix() -> None:
    snapshot = whole(build(tags=("prose",)))
    assert headroom_matrix(snapshot) is None
    assert site_headroom([]) is None


def test_nothing_that_converges() -> None:
    assert convergence([]) is None
    assert convergence(whole(llama(1, sequences=2))) is None  # one sequence of each tag


def test_before_anything_is_read_there_are_gaps() -> None:
    figure = heatmap(opened(Path("profile.h5"), llama(1)))
    is_json(figure)
    assert not any(any(row) for row in figure.views[2].data[0]["z"])


def test_infinite_and_no_cost() -> None:
    def nats(term: Term) -> float:
        return {DOWN: inf, invented.group(0, "o"): 0.0}.get(term.group, 0.001)

    snapshot = whole(invented.with_nats(invented.profile(1), nats))
    figure = worst_groups(snapshot)
    assert figure
    is_json(figure)
    is_json(heatmap(snapshot))
    bars = figure.views[0].data[0]
    assert bars["customdata"][0] == f"#{DOWN}"
    assert "inf" in bars["text"][0]
    least = bars["customdata"].index(f"#{invented.group(0, 'o')}")
    assert bars["x"][least] == FEWEST_NATS
    low, high = figure.views[0].layout["xaxis"]["range"]
    assert all(10**low <= x <= 10**high for x in bars["x"])


@pytest.mark.parametrize("value", [0.0, 1.0, 2.0**-100])
def test_a_tensor_of_one_value(value: float) -> None:
    weights = {Q: weight_record(np.full((4, 8), value, np.float32)), K: build().weights[K]}
    figure = magnitudes(build(weights=weights), [Site(Q, Role.WEIGHT), Q_INPUT])
    is_json(figure)
    counts = [sum(filter(None, trace["y"])) for trace in figure.views[0].data]
    assert sum(counts) == (32 if value else 0)


def test_a_module_that_reads_what_another_reads() -> None:
    of = build()
    (shared,) = magnitudes(of, [Site(K, Role.INPUT)]).views
    (own,) = magnitudes(of, [Q_INPUT]).views
    assert shared.data == own.data


def test_a_plan_without_cost_and_one_whose_fp8_is_not_finite() -> None:
    plan = demo_with_plan().plan
    assert plan
    nothing = plan.predicted.nats.model_copy(update={"kl": 0.0})
    changes = {"nats": nothing, "plain_fp8": None}
    free = plan.model_copy(
        update={"predicted": plan.predicted.model_copy(update=changes), "frontier": ()}
    )
    figure = frontier(free)
    is_json(figure)
    assert [trace["mode"] for trace in figure.views[0].data] == ["lines+markers", *["markers"] * 2]
    assert "costs 0.0000 nats" in str(figure.says)


def test_a_budget_is_drawn_where_there_is_one_of_nats() -> None:
    snapshot = demo_with_plan()
    assert snapshot.plan
    for limit, lines in (("max_kl", 2), ("effective_bits", 1)):
        objective = snapshot.plan.objective.model_copy(update={"limit": limit})
        plan = snapshot.plan.model_copy(update={"objective": objective})
        figure = worst_groups(replace(snapshot, plan=plan))
        assert figure
        assert len(figure.views[0].layout["shapes"]) == lines
        assert len(frontier(plan).views[0].layout["shapes"]) == lines - 1


def test_a_budget_and_a_cost_beyond_everything() -> None:
    plan = demo_with_plan().plan
    assert plan is not None
    budget = plan.objective.model_copy(update={"limit": "max_kl", "value": 1e308})
    cost = plan.predicted.model_copy(update={"nats": Nats(kl=1e308, error=0), "step_time_us": 0})
    beyond = plan.model_copy(update={"objective": budget, "predicted": cost})
    drawn = worst_groups(replace(demo_with_plan(), plan=beyond))
    assert drawn is not None
    assert [note["text"][:7] for note in drawn.views[0].layout["annotations"]] == ["finding"]
    is_json(frontier(beyond))
    assert "runs ∞× as fast" in str(frontier(beyond).says)


def test_too_few_sequences_foretell_nothing() -> None:
    row = whole(llama(1)).convergence
    assert row is not None
    drawn = convergence(row)
    assert drawn is not None
    assert "not known, of a tag there are too few sequences" in str(drawn.says)
    assert "twice" not in str(drawn.says)


def test_numbers_are_shortened_and_names_are_not() -> None:
    of = replace(llama(1), tags=("v1.1000000", "prose"))
    said = {
        text
        for view in heatmap(whole(of)).views
        for row in view.data[0]["hovertext"]
        for text in row
        if text
    }
    assert any("v1.1000000" in text for text in said)
    assert not any("v1.1" in text.replace("v1.1000000", "") for text in said)
    numbers = {number for text in said for number in re.findall(r"(?<!\S)\d+\.\d+(?!\S)", text)}
    assert len(numbers) > 10
    assert {number for number in numbers if f"{float(number):.4g}" != number} == set()
