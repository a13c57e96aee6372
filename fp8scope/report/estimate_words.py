"""What the pages of an estimate share: sentences, and how sizes, times and rates are written."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from fp8scope.estimate.api import Bounds, Estimate
from fp8scope.report.words import literal

ONLY_BOUNDS = (
    "Times are bounds from data sheets: no engine is faster, real ones are slower. Norms, "
    "sampling, launches and what GPUs tell each other are left out of them"
)
TOO_SMALL = "*"
"""Marks a way that does not fit."""
_UNIT = re.compile(r"(?<=\d) (?=(?:[GMk]B|TFLOP|s|ms|µs|bytes|tokens)\b)")
_UNBROKEN = "\u00a0"
_WAYS = {"bf16": "BF16", "fp8": "FP8", "int8_weight": "INT8 weights"}
_SOURCES = {"model": "", "checkpoint": ", a checkpoint", "plan": ", a plan"}


class Sentence:
    """A sentence, indented, that ends no line between a number and its unit. Rich breaks lines at
    spaces that must not be broken too, and textwrap does not.
    """

    def __init__(self, words: str) -> None:
        self._words = _UNIT.sub(_UNBROKEN, f"  {words}.")

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[Text]:
        wrapped = textwrap.wrap(
            self._words, options.max_width, break_long_words=False, break_on_hyphens=False
        )
        yield from (literal(line.replace(_UNBROKEN, " ")) for line in wrapped)


def model_words(of: Estimate) -> str:
    """`Llama-3-70B (70.6B parameters)`."""
    served = of.served
    billions = served.parameters / 1e9
    count = f"{billions:.3g}B" if billions >= 1 else f"{1e3 * billions:.2g}M"
    return f"{served.name} ({count} parameters{_SOURCES[served.source]})"


def load_words(of: Estimate) -> str:
    """What is asked of the GPUs."""
    load = of.load
    sequences = "1 sequence" if load.batch == 1 else f"{load.batch:,} sequences at once"
    shared = f", shared by {of.tp} GPUs (tensor parallel)" if of.tp > 1 else ""
    return (
        f"Load: {sequences}, prompts of {load.context:,} tokens, answers of {load.generate:,}"
        f"{shared}"
    )


def way_words(of: Estimate, name: str) -> str:
    """What a way to run it is called."""
    return _WAYS.get(name) or f"this {of.served.source}"


def shared_memory(of: Estimate) -> str:
    """`, shared with the CPU`; nothing where the GPU has its memory to itself."""
    other = of.gpu.memory_shared_with
    return f", shared with the {other}" if other else ""


def too_small(of: Estimate) -> Iterator[str]:
    """For each way that does not fit: by how much, and what would."""
    for name, bounds in of.bounds.items():
        if bounds.fits or name == "int8_weight":
            continue
        memory = bounds.memory
        by_weights = memory.weights > memory.usable
        what = "the weights alone take" if by_weights else "this load takes"
        size = in_bytes(memory.weights if by_weights else memory.needed)
        yield (
            f"Too small for {way_words(of, name)}: {what} {size} on each GPU, which gives "
            f"{in_bytes(memory.usable)}. {_remedy(bounds)}"
        )


def _remedy(bounds: Bounds) -> str:
    here = f"; batch {bounds.largest_batch:,} fits as it is" if bounds.largest_batch else ""
    if bounds.fitting_tp is None:
        return f"No --tp is known on which it fits{here}"
    return f"--tp {bounds.fitting_tp} would fit{here}"


def left_out(of: Estimate) -> Iterator[str]:
    """What is not counted."""
    for sentence in of.served.left_out:
        yield f"Left out: {sentence}"


def blank_table(title: str, *columns: str) -> Table:
    """Numbers to the right, names to the left."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        is_name = column in {"", "GPU"}
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    return table


def in_bytes(size: float) -> str:
    """`35.3 GB`, of small ones `1.8 MB`."""
    for unit, word in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{three_digits(size / unit)} {word}"
    return f"{three_digits(size / 1e3)} kB"


def in_time(us: float) -> str:
    """`2.31 s`, `12.2 ms`, `0.631 µs`."""
    for unit, word in ((1e6, "s"), (1e3, "ms")):
        if us >= unit:
            return f"{three_digits(us / unit)} {word}"
    return f"{three_digits(us)} µs"


def three_digits(value: float) -> str:
    """`3.86`, and thousands in full: `1,513`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
