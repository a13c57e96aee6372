"""What every report keeps to: its sections in order, one anchor for every module, links that lead
somewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from fp8scope.report.document.anchors import anchors
from fp8scope.report.document.blocks import Details, Figure, Link, Section, Table
from fp8scope.report.document.html import html
from fp8scope.report.figures.anchors import anchor
from fp8scope.report.pages import tensors
from fp8scope.report.pages.profile import profile_report
from fp8scope.report.snapshot import opened
from tests.report.pages.subjects import NAMES, parts, report, section, snapshot, text
from tests.tui.browsing import llama

ALL = pytest.mark.parametrize("name", NAMES)
ORDER = (
    "Overview",
    "Where it hurts",
    "Plan",
    "Layers",
    "Traffic",
    "KV cache",
    "Experts",
    "Every tensor",
    "Export",
    "Provenance",
)


@ALL
def test_the_sections_are_in_order(name: str) -> None:
    of, known = report(name), snapshot(name)
    left_out = {"Plan", "Export"} if known.plan is None else set()
    left_out |= set() if known.kv_cache else {"KV cache"}
    left_out |= set() if known.profile.experts else {"Experts"}
    assert of.verdict.title == "Verdict"
    assert [one.title for one in of.sections] == [one for one in ORDER if one not in left_out]


@ALL
def test_every_module_has_one_anchor(name: str) -> None:
    structure = snapshot(name).profile.structure
    modules = [
        *(linear.name for linear in structure.linears),
        *(group.name for group in structure.groups),
        *(layer.attention for layer in structure.kv_layers),
        *(layer.group for layer in structure.kv_layers),
    ]
    found = anchors(report(name))
    assert {module: found[anchor(module)] for module in modules} == dict.fromkeys(modules, 1)
    assert set(found.values()) == {1}


@ALL
def test_every_link_leads_somewhere(name: str) -> None:
    of = report(name)
    known = anchors(of)
    assert {link.anchor for link in parts(of) if isinstance(link, Link)} <= set(known)
    clicked = {to for figure in _figures(name) for to in _targets(figure) if to.startswith("#")}
    assert {to.removeprefix("#") for to in clicked} <= set(known)
    assert clicked


@ALL
def test_no_two_figures_have_one_name(name: str) -> None:
    assert set(Counter(figure.name for figure in _figures(name)).values()) == {1}


@ALL
def test_it_becomes_html(name: str) -> None:
    assert html(report(name)).startswith("<!doctype html>")


def test_the_worst_layers_come_first_and_no_more_than_asked_for() -> None:
    found = [one for one in section(report("demo"), "Layers").blocks if isinstance(one, Details)]
    groups = list((snapshot("demo").groups or {}).values())
    harmful = [group.group for group in groups if group.harmful]
    assert [one.anchor for one in found] == [anchor(name) for name in harmful[:3]]
    more = text(section(report("demo"), "Layers").blocks[-1])
    assert more.startswith(f"{len(groups) - 3} more") or "analyze" in more


def test_the_heavy_figures_are_in_the_layers_alone() -> None:
    heavy = [f.name for f in _figures("demo, planned") if f.name.startswith("magnitudes")]
    inside = [f.name for f in parts(section(report("demo"), "Layers")) if isinstance(f, Figure)]
    assert len(heavy) == 3
    assert set(heavy) <= set(inside)


def test_a_plan_that_keeps_groups_in_bf16_shows_them_after_the_findings() -> None:
    known = snapshot("llama, some in BF16")
    kept = {name for name, precision in known.planned.items() if precision == "bf16"}
    found = profile_report(known, layers=4)
    shown = [one for one in section(found, "Layers").blocks if isinstance(one, Details)]
    assert kept
    assert "planned bf16" in " ".join(text(one.summary) for one in shown)


def test_what_is_not_complete_is_refused() -> None:
    with pytest.raises(ValueError, match="not complete"):
        profile_report(opened(Path("profile.h5"), llama()))


def test_the_same_report_twice() -> None:
    known = snapshot("llama, planned")
    assert profile_report(known) == profile_report(replace(known))


def test_a_model_of_one_tag_says_that_nothing_is_known_of_other_traffic() -> None:
    said = text(section(report("one tag"), "Headroom").blocks[0])
    assert said.startswith("The text has one tag")
    assert not any(f.name.startswith("headroom") for f in _figures("one tag"))


def _figures(name: str) -> list[Figure]:
    return [part for part in parts(report(name)) if isinstance(part, Figure)]


def _targets(figure: Figure) -> list[str]:
    found: list[str] = []

    def collect(data: object) -> None:
        if isinstance(data, str):
            found.append(data)
        elif isinstance(data, list | tuple):
            for part in data:
                collect(part)

    for view in figure.views:
        for trace in view.data:
            collect(trace.get("customdata"))
    return found


def test_sections_have_anchors_that_no_module_can_have() -> None:
    found = [one.anchor for one in parts(report("demo, planned")) if isinstance(one, Section)]
    assert found
    assert all(anchor(one) != one for one in found)


def test_thousands_of_modules_without_a_row_are_cut_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tensors, "ROWS", 3)
    monkeypatch.setattr(tensors, "OTHERS", 4)
    found = profile_report(snapshot("llama"), layers=1)
    others = [part for part in parts(found) if isinstance(part, Table)]
    (cut,) = (table for table in others if table.caption.startswith("Without a row"))
    assert len(cut.rows) == 4
    count = re.fullmatch(r".*, the first 4 of (\d+)", cut.caption)
    assert count is not None
    assert int(count[1]) > 4
    # what leads to the others is text
    page = html(found)
    links = set(re.findall(r'href="#([^"]*)"', page))
    assert {unquote(link) for link in links} <= set(re.findall(r'\bid="([^"]*)"', page))
