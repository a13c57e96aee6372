"""What a GPU can give a model, for a person: has it FP8 units, does it fit, what bounds it, why.

One GPU is told in sentences, several in one table; `estimate_json` has the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group as Renderables
from rich.table import Table
from rich.text import Text

from fp8scope.core.words import times
from fp8scope.estimate.api import Estimate
from fp8scope.report.estimate_gpus import comparison_page
from fp8scope.report.estimate_words import (
    ONLY_BOUNDS,
    TOO_SMALL,
    Sentence,
    blank_table,
    in_bytes,
    in_time,
    left_out,
    load_words,
    model_words,
    shared_memory,
    three_digits,
    too_small,
    way_words,
)
from fp8scope.report.words import literal


def estimate_page(found: Sequence[Estimate]) -> Renderables:
    """Everything that `fp8scope estimate` shows, of one GPU or of several."""
    return comparison_page(found) if len(found) > 1 else _one(found[0])


def _one(of: Estimate) -> Renderables:
    many = f"{of.tp}× " if of.tp > 1 else ""
    head = literal(f"{model_words(of)} on {many}{of.gpu.title}")
    head.stylize("bold")
    parts: list[Text | Table | Sentence] = [head]
    parts += [Sentence(line) for line in (_units(of), load_words(of), *too_small(of))]
    parts += [Text(), _memory_table(of), Text(), _speed_table(of), Text()]
    parts += [Sentence(line) for line in (*_reasons(of), ONLY_BOUNDS, *left_out(of))]
    return Renderables(*parts)


def _units(of: Estimate) -> str:
    gpu = of.gpu
    major, minor = gpu.compute_capability
    here = f"compute capability {major}.{minor}"
    rates = f"{gpu.tflops['bf16']:,g} TFLOP/s in BF16, {gpu.bandwidth_gb_s:,g} GB/s"
    if gpu.has_fp8:
        return f"FP8 Tensor Cores ({here}): {gpu.tflops['fp8']:,g} TFLOP/s in FP8, {rates}"
    return (
        f"No FP8 Tensor Cores ({here}; FP8 needs 8.9): FP8 is weight-only here, half of the bytes "
        f"and the arithmetic of BF16 ({rates})"
    )


def _memory_table(of: Estimate) -> Table:
    usable = of.bounds["bf16"].memory.usable
    sold = f"90% of {of.gpu.memory_gb:g} GB{shared_memory(of)}"
    title = f"Memory on each GPU, of {in_bytes(usable)} ({sold})"
    columns = ("weights", "KV cache", "activations", "in all", "fits", "largest batch")
    table = blank_table(title, "", *columns)
    for name, bounds in of.bounds.items():
        memory = bounds.memory
        sizes = (memory.weights, memory.cache, memory.activations, memory.needed)
        fits = "yes" if bounds.fits else "no"
        table.add_row(way_words(of, name), *map(in_bytes, sizes), fits, f"{bounds.largest_batch:,}")
    return table


def _speed_table(of: Estimate) -> Table:
    title = "The least that the prefill of all prompts and a decode step take, × BF16"
    if not all(bounds.fits for bounds in of.bounds.values()):
        title += f" ({TOO_SMALL} does not fit)"
    prefill, decode = ("prefill", "bound by", "×"), ("step", "bound by", "×")
    table = blank_table(title, "", *prefill, *decode, "tokens/s each", "in all")
    for name, bounds in of.bounds.items():
        table.add_row(
            way_words(of, name) + ("" if bounds.fits else TOO_SMALL),
            in_time(bounds.prefill_us),
            bounds.prefill.bound,
            times(of.speedup(name, "prefill")),
            in_time(bounds.decode_us),
            bounds.decode.bound,
            times(of.speedup(name, "decode")),
            three_digits(bounds.sequence_tokens_per_s),
            three_digits(bounds.decode_tokens_per_s),
        )
    return table


def _reasons(of: Estimate) -> Iterator[str]:
    fp8, bf16, reads = of.bounds["fp8"], of.bounds["bf16"], of.bounds["fp8"].reads
    yield (
        f"Prefill: FP8 gives at most {times(of.speedup('fp8', 'prefill'))}×, {_why_prefill(of)}. "
        f"INT8 weights give {times(of.speedup('int8_weight', 'prefill'))}×, for they are "
        "multiplied in 16 bits. The first token of one prompt alone takes at least "
        f"{in_time(bf16.ttft_us)} in BF16, {in_time(fp8.ttft_us)} in FP8"
    )
    yield (
        f"Decode at batch {of.load.batch:,}: FP8 gives at most "
        f"{times(of.speedup('fp8', 'decode'))}×. A step reads {in_bytes(reads.all)} on each GPU, "
        f"{in_bytes(reads.cache)} of it KV cache; in BF16 {in_bytes(bf16.decode_reads)}"
    )
    whole = fp8.tokens_per_s / bf16.tokens_per_s
    yield (
        f"A whole batch, prompts and answers: at most {three_digits(bf16.tokens_per_s)} tokens/s "
        f"in BF16, {three_digits(fp8.tokens_per_s)} in FP8 ({times(whole)}×)"
    )
    yield _turn(of)
    yield _cache(of)
    read_us = reads.all / of.gpu.bandwidth_gb_s / 1e3
    yield (
        f"MBU of a measured decode step (TPOT) in FP8: {in_time(read_us)} / TPOT, the bytes of a "
        "step over the bandwidth"
    )


def _why_prefill(of: Estimate) -> str:
    if not of.gpu.has_fp8:
        return "for it is multiplied in BF16"
    if of.bounds["fp8"].prefill.bound == "memory":
        return "for moving the bytes takes longer than multiplying them"
    return "2× minus what stays in BF16: attention and lm_head"


def _turn(of: Estimate) -> str:
    """From which batch compute bounds a decode step."""
    fp8, bf16 = of.bounds["fp8"], of.bounds["bf16"]
    matmuls, whole = fp8.matmuls_turn_at, fp8.decode_turns_at
    start = f"FP8's decode step is bound by {fp8.decode.bound}"
    if matmuls is None:
        return f"{start}, and not even its matmuls are bound by compute at any batch"
    own = "never" if bf16.matmuls_turn_at is None else f"from {bf16.matmuls_turn_at:,}"
    turn = (
        f"{start}. Its matmuls alone are bound by compute from batch {matmuls:,} on (BF16's {own})"
    )
    if whole is None:
        return f"{turn}; with the KV cache a step never is, for that grows with the batch"
    fits = f", and {fp8.largest_batch:,} fit" if 0 < fp8.largest_batch < whole else ""
    return f"{turn}; with the KV cache a step is from {whole:,} on{fits}"


def _cache(of: Estimate) -> str:
    ways = (of.bounds["fp8"], of.other_cache)
    bf16, fp8 = ways if of.other_cache.cache == "fp8" else ways[::-1]
    faster = times(bf16.decode_us / fp8.decode_us)
    return (
        f"KV cache in FP8 beside FP8 weights: {fp8.kv_bytes_per_token:,} in place of "
        f"{bf16.kv_bytes_per_token:,} bytes per token on each GPU, a step {faster}× as fast"
        f"{_batches(bf16.largest_batch, fp8.largest_batch)}"
    )


def _batches(bf16: int, fp8: int) -> str:
    """What the smaller cache does for the batch; nothing where nothing fits."""
    if bf16:
        return f", batch {fp8:,} in place of {bf16:,} at most"
    return f", and batch {fp8:,} fits where none did" if fp8 else ""
