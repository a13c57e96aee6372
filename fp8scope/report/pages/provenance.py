"""What all of it was made from, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8scope import __version__
from fp8scope.core.words import printable
from fp8scope.profile.digest import profile_hash
from fp8scope.report.commands import command
from fp8scope.report.document.blocks import (
    Block,
    Cell,
    Code,
    Column,
    Details,
    Items,
    Listing,
    Paragraph,
    Row,
    Section,
    Table,
    Words,
)
from fp8scope.report.pages.tables import facts_table, number_cell
from fp8scope.report.plan import capital
from fp8scope.report.rows import profile_summary
from fp8scope.report.snapshot import Snapshot

MADE = (
    f"Made by fp8scope {__version__} from the files named here and nothing else: the same files "
    "give the same report. Its numbers are those of analyze --json and plan --json."
)


def provenance(snapshot: Snapshot) -> Section:
    """Model, text, settings, environment, notes of the scan, and the files themselves."""
    found = profile_summary(snapshot.profile)
    blocks: list[Block] = [
        facts_table("Model", [*_entries(found["model"]), _dtype(found)]),
        _text(found["tags"]),
        _files(snapshot),
    ]
    if found["notes"]:
        said = "Notes of the scan"
        blocks.append(Details(said, [Items([printable(note) for note in found["notes"]])]))
    for name in ("settings", "environment"):
        if found[name]:
            blocks.append(
                Details(f"{capital(name)} of the scan", [facts_table("", _entries(found[name]))])
            )
    blocks += [facts_table("Files", _hashes(snapshot)), Paragraph(MADE), _how(snapshot)]
    return Section("Provenance", "~provenance", blocks, "hash sha256 settings environment notes")


def _entries(values: Mapping[str, Any]) -> list[tuple[str, Words]]:
    return [(printable(str(name)), printable(str(value))) for name, value in values.items()]


def _dtype(found: Mapping[str, Any]) -> tuple[str, Words]:
    return "dtype of the scan", printable(str(found["settings"].get("dtype", "not recorded")))


def _text(tags: Mapping[str, Mapping[str, int]]) -> Table:
    columns = (Column("tag"), Column("sequences", numeric=True), Column("tokens", numeric=True))
    rows = [
        Row(
            [
                Cell(printable(tag)),
                number_cell(f"{of['sequences']:,}", of["sequences"]),
                number_cell(f"{of['tokens']:,}", of["tokens"]),
            ]
        )
        for tag, of in tags.items()
    ]
    return Table(columns, rows, "Text that was seen")


def _files(snapshot: Snapshot) -> Table:
    columns = (
        Column("text"),
        Column("tag"),
        Column("documents", numeric=True),
        Column("sha256"),
    )
    rows = [
        Row(
            [
                Cell(printable(str(source["location"]))),
                Cell(printable(str(source["tag"]))),
                number_cell(f"{source['documents']:,}", source["documents"]),
                Cell((Code(printable(str(source["sha256"]))),)),
            ]
        )
        for source in snapshot.profile.sources
    ]
    return Table(columns, rows, "Where it came from")


def _hashes(snapshot: Snapshot) -> list[tuple[str, Words]]:
    plan = snapshot.plan
    found: list[tuple[str, Words]] = [
        ("profile", printable(str(snapshot.path))),
        ("profile hash", (Code(profile_hash(snapshot.profile)),)),
    ]
    if plan is not None:
        found.append(("plan", printable(str(snapshot.plan_path or "plan.json"))))
        found.append(("plan made by", printable(f"fp8scope {plan.fp8scope}")))
        if plan.factors is not None:
            found.append((printable(plan.factors.file), (Code(plan.factors.sha256),)))
    return found


def _how(snapshot: Snapshot) -> Listing:
    words: list[Any] = ["report", snapshot.path]
    if snapshot.plan is not None:
        words += ["--plan", snapshot.plan_path or "plan.json"]
    return Listing("This report", command(*words, "-o", "report.html"), "sh")
