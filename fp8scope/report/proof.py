"""A proof for a person: what differs, why, every layer on demand, and what would work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Group as Renderables
from rich.table import Table
from rich.text import Text

from fp8scope.core.modules import WORDS
from fp8scope.core.words import printable
from fp8scope.export.checking import Checked
from fp8scope.export.consumer import SAYS, Document
from fp8scope.export.faults import Row
from fp8scope.report.words import literal

FAULTS = 12
ROWS = 24
LINES = 16


def check_page(checked: Checked, *, whole: bool) -> Renderables:
    """Everything that `fp8scope check` shows; `whole` for every layer and fault."""
    head = literal(f"{_named(checked)}, given {checked.source} ({checked.form})")
    head.stylize("bold")
    faults = [fault.sentence for fault in checked.proof.faults]
    parts: list[Text | Table] = [head, literal(f"  {check_sentence(checked)}")]
    parts += _numbered(faults, len(faults) if whole else FAULTS)
    kinds = {fault.kind for fault in checked.proof.faults}
    if checked.rule and kinds & {"nothing", "too much", "split"}:
        parts.append(literal(f"  How it matches them: {checked.rule}."))
    rows = checked.proof.rows if whole else checked.proof.differences
    if rows:
        parts += [Text(), _table(rows, len(rows) if whole else ROWS)]
    parts += _correction(checked, whole=whole)
    return Renderables(*parts)


def check_sentence(checked: Checked) -> str:
    """The verdict in one line."""
    rows, wrong = checked.proof.rows, checked.proof.differences
    who, it = checked.says, checked.consumer
    if checked.proof.holds:
        runs = Counter(row.outcome.treatment for row in rows)
        parts = [f"{count} in {WORDS[each]}" for each, count in runs.most_common() if each]
        return f"All {len(rows)} layers of {it} will run as {who}: {', '.join(parts)}."
    if wrong:
        return f"{len(wrong)} of the {len(rows)} layers of {it} will not run as {who}."
    return f"All {len(rows)} layers of {it} will run as {who}, but the config has faults."


def check_json(checked: Checked) -> dict[str, Any]:
    """The same as data."""
    return {
        "consumer": checked.consumer,
        "version": checked.version,
        "form": checked.form,
        "source": checked.source,
        "rule": checked.rule,
        "wanted_by": checked.says,
        "holds": checked.proof.holds,
        "faults": [fault.to_json() for fault in checked.proof.faults],
        "layers": [
            {
                "name": row.layer.name,
                "modules": [module.name for module in row.layer.modules],
                "wanted": row.wanted,
                "will_run": row.outcome.treatment,
                "error": row.outcome.error,
                "note": row.outcome.note,
                "differs": row.differs,
            }
            for row in checked.proof.rows
        ],
        "corrected": checked.corrected and document_json(checked.corrected),
        "why_not": checked.why_not,
    }


def document_json(document: Document) -> dict[str, Any]:
    """A document as data, with the text of each of its forms."""
    return {
        "kind": document.kind,
        "says": SAYS[document.kind],
        "forms": {
            name: {"suffix": form.suffix, "text": form.text}
            for name, form in document.forms.items()
        },
        "use": list(document.use),
    }


def _named(checked: Checked) -> str:
    return f"{checked.consumer} {checked.version}".strip()


def _numbered(sentences: Sequence[str], most: int) -> list[Text]:
    shown = [literal(f"  {at}. {text}.") for at, text in enumerate(sentences[:most], 1)]
    if len(sentences) > most:
        shown.append(literal(f"  … and {len(sentences) - most} more: --all"))
    return shown


def _table(rows: Sequence[Row], most: int) -> Table:
    table = Table(box=None)
    for name in ("layer", "should run in", "will run in"):
        table.add_column(name, overflow="fold")
    for row in rows[:most]:
        words = dict.fromkeys(WORDS[m.wanted] for m in row.layer.modules if m.wanted)
        wanted = " and ".join(words) or "not said"
        runs = WORDS[row.outcome.treatment] if row.outcome.treatment else "it fails"
        style = "bold red" if row.differs else ""
        table.add_row(literal(row.layer.name), wanted, runs, style=style)
    if len(rows) > most:
        table.add_row(f"… and {len(rows) - most} more: --all", "", "")
    return table


def _correction(checked: Checked, *, whole: bool) -> list[Text]:
    if checked.proof.holds:
        return []
    if checked.corrected is None:
        why = f"Nothing was found that works: {checked.why_not}."
        return [Text(), literal(why)] if checked.why_not else []
    form = next(iter(checked.corrected.forms.values()))
    lines = printable_lines(form.text)
    most = len(lines) if whole else LINES
    head = "What works, proven the same way (-o FILE writes it):"
    if checked.corrected.kind == "metadata":
        head = f"{head[:-1]}; the weights beside it must be so:"
    # not wrapped: somebody will copy it
    shown = [Text(line, no_wrap=True, overflow="ignore") for line in lines[:most]]
    left = len(lines) - most
    more = [literal(f"… and {left} lines more")] if left > 0 else []
    return [Text(), literal(head), *shown, *more]


def printable_lines(text: str) -> list[str]:
    """Lines without control characters."""
    return [printable(line) for line in text.splitlines()]
