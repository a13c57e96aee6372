"""Snippets to copy: what export writes, or its refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fp8scope.export.checking import export_plan
from fp8scope.export.consumer import CannotExpress
from fp8scope.export.registry import all_consumers
from fp8scope.report.document.blocks import Details, Listing, Section, Table
from fp8scope.report.pages import exports as page
from tests.report.pages.subjects import parts, report, section, snapshot, text


def shown(name: str) -> Section:
    return section(report(name), "Export")


@pytest.mark.parametrize("consumer", [c.name for c in all_consumers() if c.write])
@pytest.mark.parametrize("name", ["demo, planned", "llama, planned"])
def test_every_consumer_gets_its_document_or_the_refusal(name: str, consumer: str) -> None:
    plan = snapshot(name).plan
    assert plan
    details = {text(part.summary): part for part in parts(shown(name)) if isinstance(part, Details)}
    refusals = {
        text(row.cells[0].words): [text(cell.words) for cell in row.cells[1:]]
        for part in parts(shown(name))
        if isinstance(part, Table)
        for row in part.rows
    }
    if consumer in refusals:
        with pytest.raises(CannotExpress) as refused:
            export_plan(plan, consumer)
        assert refusals[consumer] == [refused.value.what, refused.value.remedy]
        return
    document = export_plan(plan, consumer)
    about = next(one.about for one in all_consumers() if one.name == consumer)
    part = details[f"{consumer}: {about}"]
    usual = next(iter(document.forms.values()))
    listing = next(one for one in parts(part) if isinstance(one, Listing))
    if len(usual.text.splitlines()) <= page.HEAD + page.TAIL:
        assert listing.text == usual.text.rstrip("\n")
    assert f"fp8scope export plan.json --to {consumer} -o" in text(listing.note)
    assert all(line in text(part) for line in document.use)


def test_what_is_long_is_cut_in_the_middle_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "HEAD", 3)
    monkeypatch.setattr(page, "TAIL", 2)
    found = page.exports(snapshot("demo, planned"))
    assert found
    listing = next(p for p in parts(found) if isinstance(p, Listing) and "left out" in p.text)
    assert len(listing.text.splitlines()) == 6
    assert text(listing.note).startswith("Cut in the middle")


def test_commands_quote_the_path_of_the_plan() -> None:
    known = replace(snapshot("demo, planned"), plan_path=Path("my plan; ls.json"))
    found = page.exports(known)
    assert found
    assert "fp8scope build 'my plan; ls.json' -o CHECKPOINT" in text(found)


def test_there_is_nothing_to_export_without_a_plan() -> None:
    assert page.exports(snapshot("demo")) is None
