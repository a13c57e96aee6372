"""A diagnosis for a person: what there is, the errors with their remedies, then the warnings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Renderables
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from fp8scope.checkpoint.doctor.diagnosis import Diagnosis, Fault
from fp8scope.checkpoint.doctor.phrases import BARE, SHOWN
from fp8scope.core.modules import WORDS
from fp8scope.core.words import printable
from fp8scope.report.words import literal

_CACHE = {
    "fp8": "FP8 with static scales",
    "fp8_dynamic": "FP8 with dynamic scales",
    "other": "another quantization",
}
_READERS = {
    "modelopt": "vllm", "compressed-tensors": "vllm", "fp8": "vllm", "fbgemm_fp8": "transformers",
}  # fmt: skip
"""An engine that reads each form of metadata, of those that `check` knows."""


class _Trimmed:
    """The same without the blanks that tables end lines with."""

    def __init__(self, page: RenderableType) -> None:
        self._page = page

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self._page, options, pad=False):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                text, style, control = line.pop()
                line.append(Segment(text.rstrip(), style, control))
            yield from line
            yield Segment.line()


def doctor_page(diagnosis: Diagnosis, *, whole: bool) -> RenderableType:
    """Everything that `fp8scope doctor` shows; `whole` for every name."""
    head = literal(f"{diagnosis.folder}: {_size(diagnosis)}")
    head.stylize("bold")
    parts: list[Text | Table] = [
        head,
        *(literal(f"  {line}") for line in _facts(diagnosis)),
        Text(),
    ]
    for title, faults, style in (
        ("Errors", diagnosis.errors, "bold red"),
        ("Warnings", diagnosis.warnings, "bold yellow"),
    ):
        if faults:
            parts += [Text(title, style=style), _table(faults, whole=whole), Text()]
    parts.append(literal(doctor_sentence(diagnosis)))
    if not whole and any(_is_cut(fault) for fault in diagnosis.faults):
        parts.append(literal("All names of what is concerned: --all"))
    if diagnosis.form in _READERS:
        command = f"fp8scope check {quote(str(diagnosis.folder))} --for {_READERS[diagnosis.form]}"
        parts.append(literal(f"What an engine does with it: {command}"))
    return _Trimmed(Renderables(*parts))


def _is_cut(fault: Fault) -> bool:
    """Whether it has names that its sentence leaves out."""
    return len(fault.where) > SHOWN and any(name not in fault.what for name in fault.where)


def doctor_sentence(diagnosis: Diagnosis) -> str:
    """The verdict in one line."""
    errors, warnings = len(diagnosis.errors), len(diagnosis.warnings)
    if not errors and not warnings:
        return "Healthy: nothing wrong was found."
    words = f"{warnings} {'warning' if warnings == 1 else 'warnings'}"
    if not errors:
        return f"Healthy, with {words}."
    return f"Broken: {errors} {'error' if errors == 1 else 'errors'} and {words}."


def doctor_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The same as data."""
    return {
        "checkpoint": str(diagnosis.folder),
        "healthy": diagnosis.healthy,
        "faults": [fault.to_json() for fault in diagnosis.faults],
        "linears": dict(diagnosis.linears),
        "metadata": list(diagnosis.metadata),
        "kv_cache": {
            "declared": diagnosis.kv_cache.declared,
            "k_scales": diagnosis.kv_cache.k_scales,
            "v_scales": diagnosis.kv_cache.v_scales,
        },
        "tensors": diagnosis.tensors,
        "bytes": diagnosis.nbytes,
    }


def _size(diagnosis: Diagnosis) -> str:
    size = diagnosis.nbytes
    shown = f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
    return f"{diagnosis.tensors:,} tensors, {shown}"


def _facts(diagnosis: Diagnosis) -> Iterator[str]:
    counts = {WORDS[way]: count for way, count in diagnosis.linears.items()}
    if diagnosis.bare:
        counts[WORDS["other"]] -= diagnosis.bare
        counts[BARE] = diagnosis.bare
    ways = (f"{count:,} in {way}" for way, count in counts.items() if count)
    yield f"linears: {', '.join(ways) or 'none'}"
    yield f"metadata: {', '.join(diagnosis.metadata) or 'none'}"
    cache = diagnosis.kv_cache
    said = _CACHE[cache.declared] if cache.declared is not None else "nothing said"
    yield f"KV cache: {said}, {cache.k_scales} scales of keys and {cache.v_scales} of values"


def _table(faults: Sequence[Fault], *, whole: bool) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(justify="right", min_width=4)
    table.add_column(overflow="fold")
    for number, fault in enumerate(faults, 1):
        table.add_row(f"{number}.", literal(f"{_capital(fault.what)} [{fault.code}]."))
        table.add_row("", literal(f"→ {fault.remedy}"))
        if whole:
            table.add_row("", Text("\n".join(map(printable, fault.where))))
    return table


def _capital(sentence: str) -> str:
    """Unless it begins with a name."""
    word = sentence.partition(" ")[0]
    return sentence[:1].upper() + sentence[1:] if word.isalpha() else sentence
