"""The first screen: what to do, why, and what it costs."""

from __future__ import annotations

from fp8scope.analyze.cause import Cause, SiteCause
from fp8scope.analyze.groups import GroupFinding
from fp8scope.analyze.verdict import judge
from fp8scope.artefacts.plan import Group, Plan
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.core.words import printable, times
from fp8scope.plan.reasons import WORDS
from fp8scope.report.commands import command
from fp8scope.report.document.blocks import (
    Block,
    Cell,
    Column,
    Facts,
    Listing,
    Paragraph,
    Row,
    Section,
    Strong,
    Table,
)
from fp8scope.report.groups import NAMES
from fp8scope.report.headline import verdict_line
from fp8scope.report.pages import facts
from fp8scope.report.pages.names import Names
from fp8scope.report.pages.tables import nats_cell
from fp8scope.report.plan import capital, plain_sentence, told_groups
from fp8scope.report.sentence import sentence
from fp8scope.report.snapshot import Snapshot

ACTIONS = 5
NOT_SCORED = (
    "What that costs in nats per token was not scored (--sensitivity none): scan again without "
    "that, and a plan can be made."
)


def verdict(snapshot: Snapshot, names: Names) -> Section:
    """With a plan what it does, without one what analyze says, without scores by body SQNR."""
    if snapshot.plan is not None:
        blocks = _of_plan(snapshot, snapshot.plan, names)
    elif snapshot.scores:
        blocks = _of_scores(snapshot, names)
    else:
        blocks = _of_tensors(snapshot, names)
    return Section("Verdict", "~verdict", blocks)


def _of_plan(snapshot: Snapshot, plan: Plan, names: Names) -> list[Block]:
    told = told_groups(plan)
    rest = plain_sentence(plan, snapshot.prefix)
    path = snapshot.plan_path or "plan.json"
    blocks: list[Block] = [
        Paragraph((Strong(f"{printable(capital(plan.summary))}."),)),
        Facts(facts.of_plan(snapshot, plan)),
    ]
    if told:
        rows = [_planned(snapshot, group, names) for group in told[:ACTIONS]]
        blocks.append(_actions(rows, len(told)))
    if rest:
        blocks.append(Paragraph(names.linked(rest)))
    build = command("build", path, "-o", "CHECKPOINT")
    blocks.append(Listing("Next: the FP8 checkpoint", build, "sh"))
    return blocks


def _of_scores(snapshot: Snapshot, names: Names) -> list[Block]:
    harmful = [group for group in (snapshot.groups or {}).values() if group.harmful]
    blocks: list[Block] = [
        Paragraph((Strong(_stopped(verdict_line(snapshot))),)),
        Facts(facts.of_scores(snapshot)),
    ]
    if harmful:
        rows = [_found(group, names) for group in harmful[:ACTIONS]]
        blocks.append(_actions(rows, len(harmful)))
    plan = command("plan", snapshot.path)
    blocks.append(Listing("Next: what every layer should run in, within a budget", plan, "sh"))
    return blocks


def _of_tensors(snapshot: Snapshot, names: Names) -> list[Block]:
    found = judge((snapshot.sites or {}).values())
    said = sentence(found, lambda row: names.short(row.site.module))
    harmful = [group for group in (snapshot.groups or {}).values() if group.harmful]
    blocks: list[Block] = [
        Paragraph((Strong(_stopped(verdict_line(snapshot))),)),
        Facts(facts.of_tensors(snapshot, found)),
        Paragraph(names.linked(said)),
    ]
    if harmful:
        rows = [_found(group, names) for group in harmful[:ACTIONS]]
        blocks.append(_actions(rows, len(harmful)))
    return [*blocks, Paragraph(NOT_SCORED)]


def _actions(rows: list[Row], count: int) -> Table:
    """What to do where, the worst first."""
    title = "" if count <= len(rows) else f"the {len(rows)} that cost most of {count}"
    columns = (
        Column("layer"),
        Column("what to do"),
        Column("why"),
        Column("nats before", numeric=True, about="with one static scale per tensor"),
        Column("after", numeric=True, about="the group alone, nats per token"),
    )
    return Table(columns, rows, title)


def _planned(snapshot: Snapshot, group: Group, names: Names) -> Row:
    """A group that the plan does not leave plain."""
    finding = (snapshot.groups or {}).get(group.name)
    before = group.evidence.candidates.get("fp8_tensor")
    return Row(
        [
            Cell((names.link(group.name),)),
            Cell(to_do(group)),
            Cell(cause_in_brief(finding.cause) if finding else ""),
            nats_cell(before),
            nats_cell(group.evidence.kl),
        ]
    )


def to_do(group: Group) -> str:
    """What a plan has a group run in, as something to do."""
    if group.precision == "bf16":
        return "keep it in BF16"
    alpha = "" if group.alpha is None else f" at α {group.alpha:g}"
    return f"{WORDS[group.precision]}{alpha}"


def _found(group: GroupFinding, names: Names) -> Row:
    """A group that should not run plain, and the cheapest that is known for it."""
    served = {name: score for name in DEFAULT_CANDIDATES if (score := group.candidates.get(name))}
    best = min(served, key=lambda name: served[name].kl, default="")
    alpha = served[best].row.terms[0].alpha if best else None
    at = "" if alpha is None else f" at α {alpha:g}"
    words = f"{NAMES[best]}{at}" if best not in ("", "fp8_tensor") else "BF16"
    after = served[best].kl if best not in ("", "fp8_tensor") else None
    return Row(
        [
            Cell((names.link(group.group),)),
            Cell(words if best else str(group.cause.remedy).replace("_", " ")),
            Cell(cause_in_brief(group.cause)),
            nats_cell(group.plain.kl if group.plain else None),
            nats_cell(after),
        ]
    )


def cause_in_brief(found: SiteCause) -> str:
    """`input: first token «<s>», channel 12, 694,726× the body's rms`."""
    kind = str(found.cause).replace("_", " ")
    where = f"{found.site.role}: "
    if found.cause is Cause.ROUNDING:
        return f"{where}plain {kind}"
    tokens = "".join(f" «{token.text}»" for token in found.tokens[:1] if token.text)
    lines = f", {found.axis} {found.lines[0].index}" if found.lines else ""
    lines += ", …" if len(found.lines) > 1 else ""
    return printable(f"{where}{kind}{tokens}{lines}, {times(found.ratio)}× the body's rms")


def _stopped(line: str) -> str:
    return line if line.endswith(".") else f"{line}."
