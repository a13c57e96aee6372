"""Every tensor that FP8 would cast, as `analyze --sites` lists them."""

from __future__ import annotations

from fp8scope.analyze.measures import SiteMeasures
from fp8scope.analyze.thresholds import CAST_ROLES, LOW_HEADROOM
from fp8scope.analyze.verdict import in_order, judge
from fp8scope.core.words import number, percent, printable, times
from fp8scope.report.commands import command
from fp8scope.report.document.blocks import (
    Block,
    Cell,
    Code,
    Column,
    Paragraph,
    Row,
    Section,
    Table,
    Words,
)
from fp8scope.report.pages.names import Names
from fp8scope.report.pages.tables import decibel_cell, excerpt, number_cell
from fp8scope.report.sentence import sentence
from fp8scope.report.snapshot import Snapshot
from fp8scope.report.words import headroom, role

ROWS = 2000
OTHERS = 5000  # modules of which nothing but the name is said: experts may be tens of thousands
CAPTION = "E4M3 with one static scale each, by severity"
BEFORE, AFTER = 24, 12  # characters around a token


def tensors(snapshot: Snapshot, names: Names) -> Section:
    """The table, the most severe first, and whatever has no row there."""
    found = in_order((snapshot.sites or {}).values(), "severity", CAST_ROLES)
    said = sentence(judge(found), lambda row: names.short(row.site.module))
    blocks: list[Block] = [Paragraph(names.linked(said))]
    if found:
        blocks.append(site_table(found[:ROWS], names, CAPTION))
    if len(found) > ROWS:
        all_of_them = command("analyze", snapshot.path, "--sites", "--rows", str(len(found)))
        left = f"{len(found) - ROWS:,} more, less severe ones: "
        blocks.append(Paragraph((left, Code(all_of_them))))
    if names.left:
        blocks.append(_others(names))
    return Section("Every tensor", "~tensors", blocks, "sites SQNR underflow headroom amax")


def site_table(rows: list[SiteMeasures], names: Names, caption: str) -> Table:
    """One row per site, in their order; the first of a module that has no anchor yet is its."""
    columns = (
        Column("module"),
        Column("role"),
        Column("body SQNR", numeric=True, about="31 to 32 dB is E4M3's rounding floor"),
        Column("underflow", numeric=True, about="share of values that become zero"),
        Column("amax/rms", numeric=True, about="the largest value over the RMS of the body"),
        Column("headroom", about="the other tags' largest value over that of the tag named"),
        Column("amax", numeric=True),
        Column("where", about="tag, place of the token, channel, and the token in its text"),
    )
    return Table(columns, [_row(row, names) for row in rows], caption)


def _row(row: SiteMeasures, names: Names) -> Row:
    anchor = names.claim(row.site.module)
    low = row.headroom is not None and row.headroom < LOW_HEADROOM
    error = row.error
    return Row(
        [
            Cell(names.short(row.site.module)),
            Cell(role(row)),
            decibel_cell(error.body_sqnr_db),
            number_cell(percent(error.underflow_rate), error.underflow_rate),
            number_cell(times(row.outlier_ratio), row.outlier_ratio),
            Cell(headroom(row), row.headroom, "warn" if low else ""),
            number_cell(number(row.amax), row.amax),
            Cell(_where(row)),
        ],
        anchor,
    )


def _where(row: SiteMeasures) -> Words:
    value = row.worst
    if value is None:
        return ""
    start = printable(f"{value.tag} {value.position}, channel {value.channel}")
    if not value.token:
        return start
    around = value.before[-BEFORE:], value.token, value.after[:AFTER]
    return f"{start}: ", excerpt(*around)


def _others(names: Names) -> Table:
    """What is linked to from elsewhere, and has nothing to say here."""
    left = names.left
    caption = "Without a row of their own above"
    if len(left) > OTHERS:
        caption += f", the first {OTHERS:,} of {len(left):,}"
    rows = [Row([Cell(names.short(name))], names.claim(name)) for name in left[:OTHERS]]
    return Table([Column("module")], rows, caption, shown=5)
