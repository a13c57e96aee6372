"""What the pages of an estimate share: sentences, and how sizes, times and rates are written."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from fp8scope.estimate.api import Bounds, Estimate

ONLY_BOUNDS = (
    "These are bounds from data sheets: no engine is faster, real ones are slower. Norms, "
    "sampling, launches and what GPUs tell each other are left out"
)
_WAYS = {"bf16": "BF16", "fp8": "FP8", "int8_weight": "INT8 weights"}
_SOURCES = {"model": "", "checkpoint": ", a checkpoint", "plan": ", a plan"}


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
