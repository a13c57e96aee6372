"""Every number that a figure draws is one of `analyze --json` or of the plan."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from fp8scope.analyze.analysis import analyze_profile
from fp8scope.analyze.layer import layer_findings
from fp8scope.core.error import quantization_error
from fp8scope.core.formats import E4M3
from fp8scope.core.sites import Role, Site
from fp8scope.profile.record import Profile
from fp8scope.report.analysis import analysis_row
from fp8scope.report.document.blocks import View
from fp8scope.report.figures.anchors import anchor
from fp8scope.report.figures.convergence import convergence
from fp8scope.report.figures.costs import costs, worst_groups
from fp8scope.report.figures.frontier import frontier
from fp8scope.report.figures.headroom import headroom_matrix
from fp8scope.report.figures.heatmap import heatmap
from fp8scope.report.figures.magnitudes import COLOURS, magnitudes
from fp8scope.report.findings import FEWEST_NATS, finding_rows
from fp8scope.report.measures import measures
from fp8scope.report.zones import Zone
from tests.report.figures.subjects import demo_with_plan, whole
from tests.tui.browsing import demo, llama, mixture, without_blocks

Json = dict[str, Any]
DOWN = "model.layers.0.mlp.down_proj"
CLOSE = 1e-3  # four digits
NUMBER = r"\d+(?:\.\d+)?(?:e[-+]?\d+)?"


@cache
def of_demo() -> Json:
    return analysis_row(analyze_profile(demo()))


def cells(view: View) -> Iterator[Json]:
    """What a heatmap has in each place."""
    (trace,) = view.data
    names = ("z", "hovertext", "customdata")
    for rows in zip(*(trace[name] for name in names), strict=True):
        for cell in zip(*rows, strict=True):
            yield dict(zip(names, cell, strict=True))


@pytest.mark.parametrize("make", [demo, llama, mixture, without_blocks])
def test_the_heatmap_shows_the_overviews_readings(make: Callable[[], Profile]) -> None:
    snapshot = whole(make())
    figure, shown = heatmap(snapshot), measures(snapshot)
    assert [view.title for view in figure.views] == [measure.name for measure in shown]
    for view, measure in zip(figure.views, shown, strict=True):
        by_link = {cell["customdata"]: cell for cell in cells(view) if cell["customdata"]}
        assert len(by_link) == len(snapshot.grid.modules)
        for module in snapshot.grid.modules.values():
            reading, cell = measure.of(snapshot, module), by_link[f"#{anchor(module)}"]
            if reading is None:
                assert cell["z"] is None
                continue
            assert cell["z"] == pytest.approx(99 * float(reading.tone), abs=0.51)
            if reading.value is not None:
                said = map(float, re.findall(NUMBER, cell["hovertext"]))
                assert pytest.approx(reading.value, rel=CLOSE) in list(said), cell


def test_a_cell_of_the_heatmap_stands_for_its_block_and_kind() -> None:
    snapshot = whole(llama(3))
    view = heatmap(snapshot).views[0]
    axes = view.layout
    assert axes["yaxis"]["ticktext"] == ["0", "1", "2", "–"]
    assert axes["xaxis"]["ticktext"] == ["q", "k", "v", "o", "gate", "up", "down", "lm_head", "kv"]
    links = view.data[0]["customdata"]
    assert links[1][4] == "#model.layers.1.mlp.gate"
    assert links[2][8] == "#model.layers.2.self_attn"
    assert links[3] == [*[None] * 7, "#lm_head", None]


def test_the_plan_in_the_heatmap() -> None:
    snapshot = demo_with_plan()
    view = heatmap(snapshot).views[-1]
    for cell in cells(view):
        if cell["customdata"]:
            module = cell["customdata"].removeprefix("#")
            assert cell["hovertext"] == snapshot.planned[snapshot.grid.group(module)]


def test_costs_of_the_worst_groups() -> None:
    figure = worst_groups(demo_with_plan(), count=9)
    assert figure
    groups = {row["group"]: row["candidates"] for row in of_demo()["groups"] if row["group"]}
    caches = {f"{row['module']}.kv_cache": row["kl_nats"] for row in of_demo()["kv_cache"]}
    names = [link.removeprefix("#") for link in figure.views[0].data[0]["customdata"]]
    plain = {name: row["fp8_tensor"]["kl"] for name, row in groups.items()} | caches
    del plain["lm_head"]
    assert names == sorted(plain, key=lambda name: -plain[name])[:9]
    for trace in figure.views[0].data:
        for link, kl in zip(trace["customdata"], trace["x"], strict=True):
            name = link.removeprefix("#")
            known = caches[name] if name in caches else groups[name][trace["name"]]["kl"]
            assert kl == pytest.approx(max(known, FEWEST_NATS), rel=CLOSE)


def test_costs_of_one_group_with_their_errors() -> None:
    found = layer_findings(demo(), DOWN)
    rows = finding_rows(found)
    figure = costs(found.scores, found.pairs)
    for view, expected in zip(figure.views, (rows["scores"], rows["pairs"]), strict=True):
        trace = view.data[0]
        assert trace["x"] == pytest.approx([row["kl"] for row in expected], rel=CLOSE)
        errors = [row["error"] for row in expected]
        assert trace["error_x"]["array"] == pytest.approx(errors, rel=0.01)


@pytest.mark.parametrize(("number", "field"), [(0, "clip"), (1, "share")])
def test_the_headroom_matrix_is_the_worst_of_all_sites(number: int, field: str) -> None:
    figure = headroom_matrix(demo_with_plan())
    assert figure
    tags = demo().tags
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    for row in of_demo()["headroom"]:
        for tag, cell in row["tags"].items():
            share = cell["far_sequences"] / max(1, cell["sequences"])
            value = {"clip": cell["clip"], "share": share}[field]
            at = row["calibration"], tag
            worst[at] = max(worst.get(at, (-1.0, "")), (value, row["module"]))
    trace = figure.views[number].data[0]
    for i, calibration in enumerate(tags):
        for j, tag in enumerate(tags):
            value, _ = worst[calibration, tag]
            text = trace["text"][i][j].replace(",", "")
            shown = float(re.sub("[×%]", "", text)) / (100 if "%" in text else 1)
            assert shown == pytest.approx(value, rel=0.06, abs=0.005)
    assert trace["customdata"][tags.index("prose")][tags.index("support")] == f"#{DOWN}"


def test_convergence_and_twice_the_text() -> None:
    snapshot = demo_with_plan()
    figure = convergence(snapshot, count=3)
    assert figure
    assert len(figure.views) == 3
    for view, row in zip(figure.views, of_demo()["convergence"], strict=False):
        seen, expected = view.data[::2], view.data[1::2]
        for tag, curve, further in zip(row["tags"], seen, expected, strict=True):
            known = row["tags"][tag]
            assert list(zip(curve["x"], curve["y"], strict=True)) == [
                (n, pytest.approx(amax, rel=CLOSE)) for n, amax in known["curve"]
            ]
            assert further["x"] == [known["sequences"], 2 * known["sequences"]]
            grown = known["amax"] + known["step_per_doubling"]
            assert further["y"] == pytest.approx([known["amax"], grown], rel=CLOSE)


def test_the_frontier_and_the_plan_in_it() -> None:
    plan = demo_with_plan().plan
    assert plan
    curve, plain, bf16, planned = frontier(plan).views[0].data
    assert curve["x"] == pytest.approx([p.step_time_us for p in plan.frontier], rel=CLOSE)
    floor = min(curve["y"])
    assert curve["y"] == pytest.approx([max(p.kl, floor) for p in plan.frontier], rel=CLOSE)
    assert floor < min(p.kl for p in plan.frontier if p.kl)
    assert planned["y"] == pytest.approx([plan.predicted.nats.kl], rel=CLOSE)
    assert planned["x"] == pytest.approx([plan.predicted.step_time_us], rel=CLOSE)
    assert bf16["y"] == [floor]
    assert plan.predicted.plain_fp8
    assert plain["y"] == pytest.approx([plan.predicted.plain_fp8.kl], rel=CLOSE)


@pytest.mark.parametrize("role", [Role.INPUT, Role.WEIGHT])
@pytest.mark.parametrize("times", [1.0, 2.0**-9])
def test_all_magnitudes_are_drawn_and_what_is_lost_is_orange(role: Role, times: float) -> None:
    site = Site(DOWN, role)
    record = demo().weights[DOWN] if role is Role.WEIGHT else demo().sites[site]
    histogram = record.magnitudes()
    scale = float(E4M3.scale(histogram.amax)) * times
    drawn = magnitudes(demo(), [site], {site: scale} if times != 1 else None).views[0].data
    counts = {trace["hovertemplate"]: sum(filter(None, trace["y"])) for trace in drawn}
    assert sum(counts.values()) == pytest.approx(histogram.elements - histogram.zeros, rel=CLOSE)
    error = quantization_error(histogram, E4M3, scale)
    lost = sum(
        sum(filter(None, trace["y"]))
        for trace in drawn
        if trace["marker"]["color"] == COLOURS[Zone.UNDERFLOW]
    )
    # bars that a limit runs through count as a whole
    assert lost == pytest.approx(error.underflowed + error.saturated, rel=0.1, abs=500)
    assert all(len(trace["y"]) <= 160 for trace in drawn)
