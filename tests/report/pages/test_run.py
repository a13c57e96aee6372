"""What ran, in a report: every gate and group of the verdict, and none of its names obeyed."""

from __future__ import annotations

from dataclasses import replace

from fp8scope.artefacts.verdict import Verdict
from fp8scope.core.words import printable
from fp8scope.judge.verdict import Run, judge
from fp8scope.report.document.blocks import Document, Table
from fp8scope.report.document.html import html
from fp8scope.report.document.markdown import markdown
from fp8scope.report.pages.profile import profile_report
from tests.judge import runs
from tests.judge.runs import DOWN, MARLIN, expected, full
from tests.report.pages.subjects import HOSTILE, parts, report, section, snapshot, text


def verdict(kernel: str = MARLIN) -> Verdict:
    """On a model whose first layers are called like the demo's."""
    of = expected()
    before = full(of, {group.name: runs.BF16 for group in of.groups})
    ran = replace(full(of, {DOWN: kernel}), notes=(f"a note of {kernel}",))
    return judge(of, Run((ran,), runs.record(20, 5)), Run((before,), runs.record(30, 6)))


def shown(of: Verdict) -> Document:
    return profile_report(replace(snapshot("demo, planned"), ran=of), layers=1)


def test_without_a_verdict_there_is_no_section() -> None:
    titles = {one.title for one in report("demo, planned").sections}
    assert "What ran" not in titles


def test_every_gate_and_group_is_there() -> None:
    of = verdict()
    found = section(shown(of), "What ran")
    said = text(found)
    for gate in of.gates:
        assert gate.words in said
    tables = {table.caption: table for table in parts(found) if isinstance(table, Table)}
    wrong = tables["What is not as planned, or not known"]
    assert len(wrong.rows) == 1
    assert "is a weight-only kernel" in text(wrong)
    every = tables["Every fused group, as it ran"]
    assert len(every.rows) == len(of.groups)
    tones = [row.cells[2].tone for row in every.rows]
    assert (tones.count("good"), tones.count("bad")) == (8, 1)
    for sentence in of.unseen:
        assert sentence in said
    assert of.summary in said
    assert "## What ran" in markdown(shown(of))


def test_a_cpu_is_compared_with_nothing() -> None:
    of = verdict()
    cpu = of.model_copy(update={"ran": of.ran.model_copy(update={"device": "cpu"})})
    assert "prefill, × BF16" in text(section(shown(of), "What ran"))
    found = section(shown(cpu), "What ran")
    assert "× BF16" not in text(found)
    every = next(x for x in parts(found) if isinstance(x, Table) and "Every" in str(x.caption))
    assert {len(row.cells) for row in every.rows} == {len(every.columns)}


def test_names_that_try_to_be_markup() -> None:
    of = verdict(HOSTILE)
    document = shown(of)
    page = html(document)
    assert "<img src=x" not in page
    assert printable(HOSTILE) in text(section(document, "What ran"))
    assert "\u202e" not in text(section(document, "What ran"))


def test_a_verdict_of_unknown_origin() -> None:
    """Whoever wrote the file: every text in it is shown, and none is obeyed."""

    def hostile(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            literal = {"planned"} if "attention" in value else set()
            return {k: v if k in literal else hostile(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [hostile(each, key) for each in value]
        texts = {"planned", "stored", "words", "cause", "remedy", "summary", "unseen", "notes",
                 "gpu", "engine", "engine_version", "profilers", "role", "precision"}  # fmt: skip
        return HOSTILE if key in texts and isinstance(value, str) else value

    of = Verdict.model_validate(hostile(verdict().model_dump(mode="json")))
    for page in (html(shown(of)), markdown(shown(of))):
        assert "<img src=x" not in page
        assert "\u202e" not in page
