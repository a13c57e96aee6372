"""What a build really ran in, by a verdict: gates, groups with cause and remedy, speed."""

from __future__ import annotations

from fp8scope.artefacts.verdict import Gate, Group, Phase, Verdict
from fp8scope.core.words import number, percent, printable, times
from fp8scope.report.document.blocks import (
    Block,
    Cell,
    Column,
    Items,
    Paragraph,
    Row,
    Section,
    Strong,
    Table,
    Tone,
)
from fp8scope.report.pages.names import Names
from fp8scope.report.pages.tables import number_cell
from fp8scope.report.pages.tables import table as sheet_table
from fp8scope.report.plan import capital
from fp8scope.report.snapshot import Snapshot
from fp8scope.report.verdict_rows import (
    OUTCOMES,
    REALIZED,
    Fault,
    cache_sentence,
    compares,
    faults,
    gate_name,
    setting,
    speed_sheet,
)

_OUTCOMES: dict[str, Tone] = {"passed": "good", "failed": "bad", "not_measured": "warn"}
_JUDGED: dict[str, Tone] = {"as_planned": "good", "not_as_planned": "bad", "not_judged": "warn"}


def run(snapshot: Snapshot, names: Names) -> Section | None:
    """None without a verdict."""
    ran = snapshot.ran
    if ran is None:
        return None
    where = [*setting(ran), *([cache_sentence(ran)] if ran.kv_cache else [])]
    blocks: list[Block] = [
        Paragraph((Strong(printable(ran.summary)),)),
        _gates(ran),
        Paragraph(printable(f"{'; '.join([capital(where[0]), *where[1:]])}.")),
    ]
    if wrong := faults(ran):
        blocks.append(_faults(wrong, names))
    blocks.append(_groups(ran, names))
    if (speeds := speed_sheet(ran)).rows:
        blocks.append(sheet_table(speeds))
    if said := [*ran.unseen, *(f"Note: {note}" for note in ran.notes)]:
        blocks += [Paragraph("What was not seen:"), Items(list(map(printable, said)))]
    return Section("What ran", "~run", blocks, "verify kernels FP8 fallback speed SM Nsight")


def _gates(ran: Verdict) -> Table:
    columns = (Column("gate"), Column("outcome"), Column("what was found"), Column("what to do"))
    return Table(columns, [_gate(gate) for gate in ran.gates], "What must hold")


def _gate(gate: Gate) -> Row:
    outcome = Cell(OUTCOMES[gate.outcome], tone=_OUTCOMES[gate.outcome])
    words = (Cell(printable(gate.words)), Cell(printable(gate.remedy or "")))
    return Row([Cell(gate_name(gate)), outcome, *words])


def _faults(found: list[Fault], names: Names) -> Table:
    columns = (
        Column("fused group"),
        Column("planned"),
        Column("ran in"),
        Column("kernel"),
        Column("likely cause"),
        Column("what to do"),
    )
    rows = [
        Row(
            [
                Cell((names.link(fault.name),)),
                *(
                    Cell(printable(words))
                    for words in (fault.planned, fault.ran, fault.kernel, fault.cause, fault.remedy)
                ),
            ]
        )
        for fault in found
    ]
    return Table(columns, rows, "What is not as planned, or not known", shown=12)


def _groups(ran: Verdict, names: Names) -> Table:
    """In model order; times are those of one pass."""
    phases = [name for name in ("prefill", "decode", "all") if name in ran.hardware]
    with_ratio = compares(ran)
    columns = [
        Column("fused group"),
        Column("planned"),
        Column("ran in"),
        Column("by", about="what tells what it ran in"),
    ]
    for phase in phases:
        columns.append(Column(f"{phase}, µs", numeric=True, about="of one pass"))
        if with_ratio:
            about = "times as fast as the baseline"
            columns.append(Column(f"{phase}, × BF16", numeric=True, about=about))
        columns += [
            Column(
                f"{phase}, of peak",
                numeric=True,
                about="FLOP/s of its GEMMs over the GPU's dense rate",
            ),
            Column(f"{phase}, bound by"),
        ]
    rows = [
        Row(
            [
                Cell((names.link(group.name),)),
                Cell(printable(group.planned)),
                Cell(_ran(group), tone=_JUDGED[group.judged]),
                Cell(group.evidence),
                *(cell for phase in phases for cell in _phase(_of(group, phase), with_ratio)),
            ]
        )
        for group in ran.groups
    ]
    return Table(columns, rows, "Every fused group, as it ran", shown=12)


def _ran(group: Group) -> str:
    return REALIZED.get(group.realized, group.realized)


def _of(group: Group, phase: str) -> Phase | None:
    return next((one for name, one in group.phases.items() if name == phase), None)


def _phase(of: Phase | None, with_ratio: bool) -> list[Cell]:
    if of is None:
        return [Cell("")] * (4 if with_ratio else 3)
    before, peak = of.baseline_time_us, of.hardware.of_peak
    ratio = before / of.time_us if before and of.time_us else None
    return [
        number_cell(number(of.time_us), of.time_us),
        *([number_cell(times(ratio) if ratio else "", ratio)] if with_ratio else []),
        number_cell(percent(peak) if peak is not None else "", peak),
        Cell("" if of.hardware.bound == "unknown" else of.hardware.bound),
    ]
