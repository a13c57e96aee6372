"""The report of `compare` says what `compare --json` says, and leads where it points."""

from __future__ import annotations

from dataclasses import replace
from math import log10
from pathlib import Path
from typing import Any

import pytest

from fp8scope.analyze.compare import compare_profiles
from fp8scope.core.words import number, percent, times
from fp8scope.profile.record import Profile
from fp8scope.report.compare import comparison_row
from fp8scope.report.document.anchors import dangling, repeated
from fp8scope.report.document.blocks import Details, Document, Facts, Paragraph, Table, figures
from fp8scope.report.document.html import html
from fp8scope.report.document.markdown import markdown
from fp8scope.report.document.words import plain
from fp8scope.report.pages.comparison import KEPT_STILL, comparison_report
from tests.analyze.sites import of_amax
from tests.profiles import build

CALIBRATION = of_amax(("prose",), *[8.0] * 20)
DRIFTED = of_amax(("prose", "code"), *[8.0] * 10, *[32.0] * 10)


def report(a: Profile, b: Profile, limit: float | None = None) -> Document:
    return comparison_report(compare_profiles(a, b), a, b, limit=limit)


def facts(document: Document) -> dict[str, str]:
    found = next(block for block in document.verdict.blocks if isinstance(block, Facts))
    return {fact.label: fact.value for fact in found.facts}


def table(document: Document, anchor: str) -> Table:
    section = next(part for part in document.sections if part.anchor == anchor)
    found = section.blocks[0]
    assert isinstance(found, Table)
    return found


def test_the_verdict_of_a_drift() -> None:
    document = report(CALIBRATION, DRIFTED, limit=0.05)
    said: dict[str, Any] = comparison_row(compare_profiles(CALIBRATION, DRIFTED))
    assert document.verdict.title == "A's static scales do not hold on B"
    assert isinstance(document.verdict.blocks[0], Paragraph)
    assert plain(document.verdict.blocks[0].words).startswith("The gate fails. model.layers.0.self")
    assert facts(document) == {
        "Drift": percent(said["drift"]),
        "Sites clipped": "1 of 1",
        "Newly damaged": "0",
        "Largest growth of amax": "4.00×",
        "Weights that differ": "0 of 2",
    }


def test_the_gate_that_holds() -> None:
    document = report(CALIBRATION, CALIBRATION, limit=0.05)
    assert document.verdict.title == "A's static scales hold on B"
    assert isinstance(document.verdict.blocks[0], Paragraph)
    assert plain(document.verdict.blocks[0].words) == (
        "The gate holds: the drift is 0, the limit 5%."
    )
    assert [part.anchor for part in document.sections] == ["amax", "sites", "provenance"]


def test_every_number_is_that_of_json() -> None:
    document = report(CALIBRATION, DRIFTED)
    site = comparison_row(compare_profiles(CALIBRATION, DRIFTED))["sites"][0]
    everything = site["under_scale_of_a"]["all"]
    (row,) = table(document, "sites").rows
    assert [plain(cell.words) for cell in row.cells][1:7] == [
        number(site["amax_a"]),
        number(site["amax_b"]),
        f"{times(site['amax_ratio'])}×",
        percent(everything["saturated_sequences"] / everything["sequences"]),
        percent(everything["far_sequences"] / everything["sequences"]),
        percent(everything["saturation_rate"]),
    ]
    section = next(part for part in document.sections if part.anchor == "by-tag")
    details = section.blocks[0]
    assert isinstance(details, Details)
    tags = details.blocks[0]
    assert isinstance(tags, Table)
    shown = {plain(row.cells[0].words): row.cells[2].sort for row in tags.rows}
    for tag, of in site["under_scale_of_a"]["tags"].items():
        assert shown[tag] == of["saturated_sequences"] / of["sequences"]


def test_points_lead_to_rows() -> None:
    document = report(CALIBRATION, DRIFTED)
    drawn = next(figure for figure in figures(document) if figure.name == "drift")
    targets = {target for trace in drawn.views[0].data for target in trace["customdata"]}
    assert targets == {f"#{row.anchor}" for row in table(document, "sites").rows}
    assert (repeated(document), dangling(document)) == ([], [])


def test_b_is_drawn_under_the_scale_of_a() -> None:
    names = [figure.name for figure in figures(report(CALIBRATION, DRIFTED))]
    assert names == ["drift", "magnitudes-model.layers.0.self_attn.q_proj-input"]
    drawn = list(figures(report(CALIBRATION, DRIFTED)))[1]
    assert f"scale {number(8 / 448)}" in plain(drawn.says)
    assert "are clamped" in plain(drawn.says)


@pytest.mark.parametrize("write", [html, markdown])
def test_a_site_that_was_silent_in_a(write: Any) -> None:
    silent = of_amax(("prose",), *[0.0] * 4)
    assert write(report(silent, DRIFTED))


def test_hostile_names_are_only_text() -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    b = build(tags=(evil, "prose"))
    b = replace(b, model={**b.model, "name": evil})
    page = html(report(build(tags=("prose", "code")), b))
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror" in page
    assert "<img src=x" not in markdown(report(build(tags=("prose", "code")), b))


def test_the_recorded_profiles() -> None:
    folder = Path(__file__).parents[3] / "profiles"
    from fp8scope.errors import CannotCompare
    from fp8scope.profile.reader import open_profile

    demo, stories = (open_profile(folder / f"{name}.h5") for name in ("demo", "stories260K"))
    document = report(demo, demo)
    assert facts(document)["Sites clipped"] == "0 of 25"
    with pytest.raises(CannotCompare):
        report(demo, stories)


def tones(document: Document) -> list[str]:
    return [row.cells[0].tone for row in table(document, "sites").rows]


def test_the_gate_and_the_title_say_the_same() -> None:
    a_few = of_amax(("prose",), *[8.0] * 34, *[32.0] * 6)
    drift = compare_profiles(CALIBRATION, a_few).drift
    assert KEPT_STILL < drift < 0.1
    held, failed, unasked = (report(CALIBRATION, a_few, limit) for limit in (0.1, 0.03, None))
    assert held.verdict.title == "A's static scales hold on B"
    assert (tones(held), tones(failed), tones(unasked)) == (["warn"], ["bad"], ["bad"])
    for document in (failed, unasked):
        assert document.verdict.title == "A's static scales do not hold on B"


def test_scales_that_hold_on_a_body_that_is_lost() -> None:
    found = compare_profiles(CALIBRATION, CALIBRATION)
    (row,) = found.sites
    lost = replace(row.b, error=replace(row.b.error, body_noise=row.b.error.body_signal))
    damaged = replace(found, sites=(replace(row, b=lost),))
    document = comparison_report(damaged, CALIBRATION, CALIBRATION)
    assert document.verdict.title == (
        "A's static scales hold on B, but the body is newly lost at 1 of 1 sites"
    )
    assert tones(document) == ["bad"]


def test_a_tag_that_has_gone_leaves_all_marks_and_words_apart() -> None:
    fell = of_amax(("prose",), *[0.001] * 20)
    drawn = next(figures(report(CALIBRATION, fell)))
    layout = drawn.views[0].layout
    low, high = layout["yaxis"]["range"]
    ((ratio,),) = (trace["y"] for trace in drawn.views[0].data)
    assert (log10(ratio) - low) / (high - low) > 0.03
    below, above = layout["annotations"]
    assert below["y"] < above["y"]
    assert (below["yanchor"], above["yanchor"]) == ("top", "bottom")
