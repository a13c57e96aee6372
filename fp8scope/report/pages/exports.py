"""What to give each engine: the plan in its words, or why it has none."""

from __future__ import annotations

from pathlib import Path

from fp8scope.core.words import printable
from fp8scope.export.checking import export_plan
from fp8scope.export.consumer import SAYS, CannotExpress, Consumer, Document, Form
from fp8scope.export.registry import all_consumers
from fp8scope.report.commands import command
from fp8scope.report.document.blocks import (
    Block,
    Cell,
    Code,
    Column,
    Details,
    Listing,
    Paragraph,
    Row,
    Section,
    Strong,
    Table,
)
from fp8scope.report.snapshot import Snapshot

HEAD, TAIL = 40, 12  # lines of what is longer
WIDEST = 2000  # characters of a line
LANGUAGES = {".json": "json", ".yaml": "yaml", ".py": "python", ".sh": "sh"}
SMOOTHED = (
    "The plan smooths: what follows holds for weights into which its factors are folded, which "
    "fp8scope build does."
)


def exports(snapshot: Snapshot) -> Section | None:
    """None without a plan."""
    plan = snapshot.plan
    if plan is None:
        return None
    path = snapshot.plan_path or Path("plan.json")
    blocks: list[Block] = [_commands(path)]
    if plan.folds:
        blocks.append(Paragraph(SMOOTHED))
    refusals = []
    for consumer in all_consumers():
        if consumer.write is None:
            continue
        try:
            blocks.append(_document(consumer, export_plan(plan, consumer.name), path))
        except CannotExpress as refusal:
            refusals.append((consumer.name, refusal))
    if refusals:
        blocks.append(_refusals(refusals))
    return Section("Export", "~export", blocks, "vLLM SGLang TensorRT-LLM ModelOpt config recipe")


def _commands(path: Path) -> Listing:
    """From the plan to a checkpoint that is proven to run as planned."""
    lines = [
        command("build", path, "-o", "CHECKPOINT"),
        command("check", "CHECKPOINT", "--for", "vllm"),
        command("doctor", "CHECKPOINT"),
    ]
    note = "The FP8 checkpoint; what an engine will run each layer in; what is wrong with it."
    return Listing("Build, check, examine", "\n".join(lines), "sh", note)


def _document(consumer: Consumer, document: Document, path: Path) -> Details:
    name, form = next(iter(document.forms.items()))
    write = command("export", path, "--to", consumer.name, "-o", f"FILE{form.suffix}")
    text, cut = _cut(form)
    whole = "Cut in the middle; the whole of it: " if cut else "As a file: "
    blocks: list[Block] = [
        Paragraph(f"This is {SAYS[document.kind]}."),
        Listing(name, text, LANGUAGES.get(form.suffix, ""), (whole, Code(write))),
    ]
    if document.use:
        blocks.append(Listing("How it is used", "\n".join(map(printable, document.use))))
    return Details((Strong(consumer.name), f": {consumer.about}"), blocks)


def _cut(form: Form) -> tuple[str, bool]:
    """At most some lines of it, of a length that can be read; whether anything is left out."""
    lines = form.text.rstrip("\n").split("\n")
    short = [_narrow(printable(line)) for line in lines]
    if len(lines) > HEAD + TAIL + 1:
        left = f"… {len(lines) - HEAD - TAIL} lines left out …"
        short = [*short[:HEAD], left, *short[-TAIL:]]
    cut = len(lines) != len(short) or any(len(line) > WIDEST for line in lines)
    return "\n".join(short), cut


def _narrow(line: str) -> str:
    if len(line) <= WIDEST:
        return line
    kept = WIDEST // 2
    return f"{line[:kept]} … {len(line) - 2 * kept:,} characters left out … {line[-kept:]}"


def _refusals(refusals: list[tuple[str, CannotExpress]]) -> Table:
    rows = [
        Row([Cell(name), Cell(printable(refusal.what)), Cell(printable(refusal.remedy))])
        for name, refusal in refusals
    ]
    columns = (Column("consumer"), Column("why not"), Column("what to do"))
    return Table(columns, rows, "Who cannot take this plan as it is, and what to do instead")
