"""The plan: what every fused group runs in, why, how sure that is, and what other budgets buy."""

from __future__ import annotations

from fp8scope.artefacts.plan import Evidence, Group, Plan
from fp8scope.core.words import number, percent, printable
from fp8scope.report.document.blocks import (
    Block,
    Cell,
    Column,
    Details,
    Items,
    Row,
    Section,
    Strong,
    Table,
)
from fp8scope.report.figures.frontier import frontier
from fp8scope.report.pages.names import Names
from fp8scope.report.pages.tables import nats_cell, number_cell, prose
from fp8scope.report.pages.verdict import why_in_brief
from fp8scope.report.plan import (
    asked_sentences,
    decided,
    frontier_points,
    measured_sentences,
    note_sentences,
    own_point,
    plain_sentence,
    told_groups,
)
from fp8scope.report.snapshot import Snapshot

TIES = 3
REASONS = 12


def planned(snapshot: Snapshot, names: Names) -> Section | None:
    """None without a plan."""
    plan = snapshot.plan
    if plan is None:
        return None
    said = [*asked_sentences(plan), *measured_sentences(plan)]
    rest = plain_sentence(plan, snapshot.prefix)
    blocks: list[Block] = prose(list(map(printable, said)), names)
    blocks += _reasons(plan, names)
    blocks += prose([*([rest] if rest else []), *note_sentences(plan)], names)
    blocks += [_groups(snapshot, plan, names), frontier(plan), _frontier(plan)]
    return Section("Plan", "~plan", blocks, "precision BF16 budget frontier reasons")


def _reasons(plan: Plan, names: Names) -> list[Block]:
    """A sentence for each group that is not plain, the first few at once."""
    said = [
        (*names.linked(names.short(group.name)), ": ", *names.linked(printable(f"{group.reason}.")))
        for group in told_groups(plan)
    ]
    blocks: list[Block] = [Items(said[:REASONS], numbered=True)] if said else []
    if said[REASONS:]:
        blocks.append(Details(f"{len(said) - REASONS} more reasons", [Items(said[REASONS:])]))
    return blocks


def _groups(snapshot: Snapshot, plan: Plan, names: Names) -> Table:
    """What is not plain first, the worst of the others after it, and last what is not decided."""
    told = told_groups(plan)
    plain = [group for group in decided(plan) if group not in told]
    plain.sort(key=lambda group: -group.evidence.kl)
    others = [group for group in plan.groups if not group.decided]
    columns = (
        Column("fused group"),
        Column("runs in"),
        Column("nats", numeric=True, about="predicted, of the group alone"),
        Column("plain FP8", numeric=True, about="nats with one static scale per tensor"),
        Column("how sure", about=f"share of {_resamples(plan)} resamples that agree"),
        Column("BF16 costs, µs", numeric=True, about="of a step, over FP8"),
        Column("why", about="the outlier that plain FP8 suffers from, or who asked for it"),
    )
    rows = [_group(snapshot, group, names) for group in (*told, *plain, *others)]
    return Table(columns, rows, "Every fused group", shown=max(len(told), 12))


def _group(snapshot: Snapshot, group: Group, names: Names) -> Row:
    evidence = group.evidence
    slower = evidence.bf16_time_us - evidence.fp8_time_us
    name, anchor = names.placed(group.name)
    alpha = "" if group.alpha is None else f", α {group.alpha:g}"
    return Row(
        [
            Cell(name),
            Cell(f"{group.precision}{alpha}"),
            nats_cell(None if group.precision == "bf16" else evidence.kl),
            nats_cell(evidence.candidates.get("fp8_tensor")),
            Cell(_sure(evidence, names), evidence.share),
            number_cell(number(slower), slower) if group.decided else Cell(""),
            Cell(_why(snapshot, group)),
        ],
        anchor,
    )


def _resamples(plan: Plan) -> int:
    return max((group.evidence.resamples for group in plan.groups), default=0)


def _why(snapshot: Snapshot, group: Group) -> str:
    """Its outlier in brief; what is not decided has a reason of its own."""
    if not group.decided:
        return printable(group.reason)
    return why_in_brief(snapshot, group)


def _sure(evidence: Evidence, names: Names) -> str:
    if evidence.share is None:
        return ""
    said = percent(evidence.share)
    if evidence.near_ties:
        more = ", …" if len(evidence.near_ties) > TIES else ""
        said += f"; near {', '.join(map(names.short, evidence.near_ties[:TIES]))}{more}"
    return said


def _frontier(plan: Plan) -> Table:
    columns = (
        Column("nats per token", numeric=True),
        Column("bits per weight", numeric=True),
        Column("step, µs", numeric=True),
        Column("groups in BF16", numeric=True),
        Column(""),
    )
    rows = [
        Row(
            [
                nats_cell(point.kl),
                number_cell(f"{point.effective_bits:.2f}", point.effective_bits),
                number_cell(f"{point.step_time_us:,.4g}", point.step_time_us),
                number_cell(str(point.bf16_groups), point.bf16_groups),
                Cell((Strong("this plan"),) if mine else ""),
            ]
        )
        for point, mine in frontier_points(plan.frontier, own_point(plan))
    ]
    return Table(columns, rows, "What other budgets would buy")
