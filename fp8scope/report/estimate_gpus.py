"""Several GPUs beside each other, for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group as Renderables
from rich.text import Text

from fp8scope.core.words import times
from fp8scope.estimate.api import Estimate
from fp8scope.report.estimate_words import (
    ONLY_BOUNDS,
    Sentence,
    blank_table,
    in_bytes,
    left_out,
    load_words,
    model_words,
    three_digits,
    too_small,
)
from fp8scope.report.words import literal

_COLUMNS = (
    "GPU", "FP8", "fits", "largest batch", "first token", "step", "tokens/s in all", "×",
)  # fmt: skip
_UNITS = ((1e6, "s"), (1e3, "ms"), (1.0, "µs"))
_ARROW = "→"
_TIMES = "×: tokens/s in FP8 over those in BF16, of a whole batch, its prefill included"


def comparison_page(found: Sequence[Estimate]) -> Renderables:
    """A row for each GPU, BF16→FP8; what is the same on all of them is said before. Cells have no
    spaces, so that none is broken in 80 columns.
    """
    first = found[0]
    each = f"{first.tp}× each of " if first.tp > 1 else ""
    head = literal(f"{model_words(first)} on {each}{len(found)} GPUs: BF16 → FP8")
    head.stylize("bold")
    first_token = _unit(one.bounds["bf16"].ttft_us for one in found)
    step = _unit(one.bounds["bf16"].decode_us for one in found)
    names = {"first token": first_token[1], "step": step[1]}
    titles = (f"{name}, {names[name]}" if name in names else name for name in _COLUMNS)
    table = blank_table("", *titles)
    table.padding = (0, 1, 0, 0)
    for one in found:
        table.add_row(*_row(one, first_token[0], step[0]))
    return Renderables(
        head,
        *map(Sentence, (load_words(first), _weights(first), *_warnings(found))),
        Text(),
        table,
        Text(),
        *map(Sentence, (_TIMES, ONLY_BOUNDS, *left_out(first))),
    )


def _unit(times_us: Iterable[float]) -> tuple[float, str]:
    """What a column of times is written in, µs and its word: the longest is 10 or more of it."""
    longest = max(times_us)
    return next((each for each in _UNITS if longest >= 10 * each[0]), _UNITS[-1])


def _row(of: Estimate, token_us: float, step_us: float) -> Iterator[str]:
    ways = of.bounds["bf16"], of.bounds["fp8"]
    yield of.gpu.name
    yield "yes" if of.gpu.has_fp8 else "no"
    yield _ARROW.join("yes" if each.fits else "no" for each in ways)
    yield _both(each.largest_batch for each in ways)
    yield _both(each.ttft_us / token_us for each in ways)
    yield _both(each.decode_us / step_us for each in ways)
    yield _both(each.tokens_per_s for each in ways)
    yield times(ways[1].tokens_per_s / ways[0].tokens_per_s)


def _both(values: Iterable[float]) -> str:
    return _ARROW.join(map(_short, values))


def _short(value: float) -> str:
    """Three digits, in full below 10,000: `1,217`, `30.4k`, `1.37M`."""
    if value >= 1e6:
        return f"{three_digits(value / 1e6)}M"
    return f"{three_digits(value / 1e3)}k" if value >= 1e4 else three_digits(value)


def _weights(of: Estimate) -> str:
    """They are the same on every GPU."""
    bf16, fp8 = (in_bytes(of.bounds[name].weight_bytes) for name in ("bf16", "fp8"))
    return f"Weights on each GPU: {bf16} in BF16, {fp8} in FP8"


def _warnings(found: Sequence[Estimate]) -> Iterator[str]:
    if without := [each.gpu.name for each in found if not each.gpu.has_fp8]:
        yield f"No FP8 Tensor Cores: {', '.join(without)}; FP8 is weight-only there"
    for other in ("CPU", "OS"):
        if names := [each.gpu.name for each in found if each.gpu.memory_shared_with == other]:
            yield f"Memory shared with the {other}: {', '.join(names)}"
    for each in found:
        for sentence in too_small(each):
            yield f"{each.gpu.name}: {sentence[0].lower()}{sentence[1:]}"
