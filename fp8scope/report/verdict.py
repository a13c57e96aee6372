"""A verdict for a person: the gates, what failed and why, what ran, and what could not be seen."""

from __future__ import annotations

from typing import Any

from rich.console import Group as Renderables
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fp8scope.artefacts.verdict import Verdict
from fp8scope.report.plan import capital
from fp8scope.report.verdict_rows import (
    OUTCOMES,
    Fault,
    cache_sentence,
    faults,
    gate_name,
    layers_sheets,
    same_faults,
    setting,
    speed_sheet,
)
from fp8scope.report.words import literal

FAULTS = 8
"""That are shown at once."""
OTHERS = 8
"""Kernels of no linear that are shown."""
_STYLES = {"passed": "bold green", "failed": "bold red", "not_measured": "bold yellow"}


def verdict_page(verdict: Verdict, *, whole: bool) -> RenderableType:
    """Everything that `fp8scope verify` shows; `whole` for every group."""
    head = literal(f"{verdict.checkpoint}: {verdict.model.name}")
    head.stylize("bold")
    parts: list[RenderableType] = [head, _gates(verdict)]
    parts += [literal(f"  {capital(line)}.") for line in setting(verdict)]
    found = faults(verdict)
    alike = [(fault, 1) for fault in found] if whole else same_faults(found)
    shown = alike if whole else alike[:FAULTS]
    if shown:
        parts += [Text(), Text("What is not as planned, or not known", style="bold red")]
        parts.append(_faults(shown))
        left = len(found) - sum(count for _, count in shown)
        if left:
            parts.append(literal(f"and {left} more: --all"))
    sheets = [*layers_sheets(verdict, whole=whole), speed_sheet(verdict)]
    parts += [part for sheet in sheets if sheet.rows for part in (Text(), sheet)]
    parts += [literal(f"  {line}.") for line in [cache_sentence(verdict)] if line]
    if whole and verdict.others:
        parts += [Text(), _others(verdict)]
    if verdict.unseen:
        parts += [Text(), Text("Not seen", style="bold yellow")]
        parts += [literal(f"  {sentence}") for sentence in verdict.unseen]
    parts += [literal(f"  Note: {note}") for note in verdict.notes]
    return Renderables(*parts)


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """The same as data: verdict.json itself."""
    return verdict.model_dump(mode="json")


def verdict_sentence(verdict: Verdict) -> str:
    """The gates that failed, in one line for whoever reads the exit code; else the summary."""
    failed = [gate for gate in verdict.gates if gate.outcome == "failed"]
    return "; ".join(gate.words.rstrip(".") for gate in failed) or verdict.summary


def _gates(verdict: Verdict) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for gate in verdict.gates:
        outcome = Text(f"  {OUTCOMES[gate.outcome]}", style=_STYLES[gate.outcome])
        table.add_row(outcome, gate_name(gate), literal(gate.words))
        if gate.remedy:
            table.add_row("", "", literal(f"→ {gate.remedy}"))
    return table


def _faults(found: list[tuple[Fault, int]]) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(justify="right", min_width=4)
    table.add_column(overflow="fold")
    for number, (fault, count) in enumerate(found, 1):
        more = f", and {count - 1} like it" if count > 1 else ""
        title = literal(f"{fault.name}{more}: planned {fault.planned}, ran {fault.ran}")
        title.stylize("bold")
        table.add_row(f"{number}.", title)
        if fault.kernel and fault.kernel[:60] not in fault.cause:
            table.add_row("", literal(f"kernel {fault.kernel}"))
        if fault.cause:
            table.add_row("", literal(f"{fault.cause}."))
        if fault.remedy:
            table.add_row("", literal(f"→ {fault.remedy}"))
    return table


def _others(verdict: Verdict) -> Table:
    """Where else the time goes: attention, norms, quantizing of what no linear tags."""
    table = Table(
        title="Kernels of no linear, µs of a pass of each phase", title_justify="left", box=None
    )
    table.add_column("", overflow="fold")
    table.add_column("role")
    table.add_column("launches", justify="right")
    table.add_column("µs", justify="right")
    for use in verdict.others[:OTHERS]:
        table.add_row(
            literal(use.name), literal(use.role), f"{use.calls:,.4g}", f"{use.time_us:,.4g}"
        )
    return table
