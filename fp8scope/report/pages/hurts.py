"""What FP8 costs the whole model, which groups are to blame, and which use cases suffer."""

from __future__ import annotations

from fp8scope.analyze.analysis import tag_damage
from fp8scope.analyze.groups import GroupFinding
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.core.words import common_prefix
from fp8scope.report.analysis import harm_sentences
from fp8scope.report.document.blocks import Block, Cell, Column, Row, Section, Table, Tone
from fp8scope.report.figures.costs import worst_groups
from fp8scope.report.groups import tag_sentences
from fp8scope.report.pages.names import Names
from fp8scope.report.pages.tables import decibel_cell, nats_cell, prose
from fp8scope.report.pages.verdict import cause_in_brief
from fp8scope.report.snapshot import Snapshot


def hurts(snapshot: Snapshot, names: Names) -> Section:
    """Figure and sentences; without a plan, whose table says more, a table of all groups."""
    groups = list((snapshot.groups or {}).values())
    blocks: list[Block] = []
    drawn = worst_groups(snapshot)
    if drawn is not None:
        blocks.append(drawn)
    blocks += prose(harm_sentences(snapshot.models, groups, snapshot.kv_cache or ()), names)
    blocks += prose(use_cases(snapshot), names)
    if snapshot.plan is None and groups:
        blocks.append(_groups(groups, names))
    return Section("Where it hurts", "~hurts", blocks, "sensitivity KL nats use cases groups")


def use_cases(snapshot: Snapshot) -> list[str]:
    """Which tag would suffer, and because of which group; nothing with one tag."""
    groups = list((snapshot.groups or {}).values())
    prefix = common_prefix(group.group for group in groups)
    return tag_sentences(tag_damage(groups, snapshot.models), prefix)


def _groups(groups: list[GroupFinding], names: Names) -> Table:
    columns = (
        Column("fused group"),
        Column("nats", numeric=True, about="alone, with one static scale per tensor"),
        Column("cheapest FP8", numeric=True, about="nats of the cheapest candidate"),
        Column("in", about="which candidate that is"),
        Column("lowest body SQNR", numeric=True),
        Column("cause"),
    )
    rows = [_group(group, names) for group in groups]
    return Table(columns, rows, "Every fused group, the worst first", shown=10)


def _group(group: GroupFinding, names: Names) -> Row:
    served = {
        name: score.kl for name in DEFAULT_CANDIDATES if (score := group.candidates.get(name))
    }
    best = min(served, key=lambda name: served[name], default="")
    name, anchor = names.placed(group.group)
    tone: Tone = "bad" if group.harmful else ""
    return Row(
        [
            Cell(name),
            nats_cell(group.plain.kl if group.plain else None, tone),
            nats_cell(served.get(best)),
            Cell(best),
            decibel_cell(group.worst.error.body_sqnr_db),
            Cell(cause_in_brief(group.cause)),
        ],
        anchor,
    )
