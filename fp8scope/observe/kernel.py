"""The CPU's inner loop, compiled by numba: one read of a matrix counts, compares and squares it.

Several times faster than the torch operations in `torch_rows.py`, which do the same in several
passes and are the reference that it is tested against. Compiled on first use (seconds), then
cached.

The work is split into lanes, one per thread or per part: a range of columns (a KV head, or all of
them) by a range of row blocks, its share, with a histogram of its own. Blocks depend on the matrix
alone, never on the number of threads, and so do the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray
from numpy.typing import NDArray

from fp8scope.core.magnitude import BF16, BINS, FP16, FP32, Encoding
from fp8scope.runtime.team import at, body, claim, compiled, run

BLOCK_ELEMENTS = 1 << 18
MAX_BLOCK_ROWS = 512
ELEMENTS_PER_THREAD = 1 << 16  # tens of microseconds: for less a second thread is not worth waking

_SIZES = ("rows", "columns", "heads", "lanes", "blocks", "binades")
_ARRAYS = (
    "x",
    "starts",
    "shares",
    "histogram",
    "binade_counts",
    "row_amax",
    "column_amax",
    "squares",
)
JOB = np.dtype([("next", "i8"), *((name, "i8") for name in _SIZES + _ARRAYS)])


@dataclass(frozen=True)
class Counts:
    """What the kernel found, by lane and block; `heads` divides the columns.

    histogram [lanes, 32768]: lane l reads head l % heads. binades [heads, blocks, binades].
    row_amax [heads, rows] and column_amax [lanes / heads, columns] are bits. squares
    [blocks, columns].
    """

    histogram: NDArray[np.uint32]
    binades: NDArray[np.uint32]
    row_amax: NDArray[Any]
    column_amax: NDArray[Any]
    squares: NDArray[np.float64]


def block_starts(parts: Sequence[int], columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where blocks start, ending with the number of rows [blocks + 1]; each one's part [blocks].

    parts: lengths of consecutive runs of rows, none zero; no block crosses from one to the next.
    """
    step = min(MAX_BLOCK_ROWS, max(1, BLOCK_ELEMENTS // columns))
    starts: list[int] = []
    part_of_block: list[int] = []
    start = 0
    for part, rows in enumerate(parts):
        inside = range(start, start + rows, step)
        starts += inside
        part_of_block += [part] * len(inside)
        start += rows
    return np.array([*starts, start], np.int64), np.array(part_of_block, np.int64)


def count(
    bits: NDArray[Any],
    starts: NDArray[np.int64],
    heads: int,
    kind: Encoding,
    shares: NDArray[np.int64] | None = None,
) -> Counts:
    """Count a matrix of floats given as their bits.

    bits [rows, columns]: uint16 for bf16 and fp16, uint32 for fp32. starts [blocks + 1]: see
    `block_starts`. heads divides columns. shares [n + 1]: at which block each share starts, and
    where the last ends; by default as many as there are threads for each head.
    """
    rows, columns = bits.shape
    blocks = len(starts) - 1
    if shares is None:
        wanted = min(blocks, -(-torch.get_num_threads() // heads))
        shares = np.arange(wanted + 1, dtype=np.int64) * blocks // wanted
    lanes = heads * (len(shares) - 1)
    found = Counts(
        np.zeros((lanes, BINS), np.uint32),
        np.empty((heads, blocks, kind.binades), np.uint32),
        np.empty((heads, rows), bits.dtype),
        np.zeros((len(shares) - 1, columns), bits.dtype),
        np.empty((blocks, columns)),
    )
    arrays = (bits, starts, shares, *vars(found).values())
    sizes = (rows, columns, heads, lanes, blocks, kind.binades)
    job = np.array((0, *sizes, *(array.ctypes.data for array in arrays)), JOB)
    run(_compiled_body(kind.name), job, min(lanes, max(1, bits.size // ELEMENTS_PER_THREAD)))
    return found


@compiled
def _count_lanes(address: int, dtype: Any, mask: Any, half_squares: Any) -> None:
    job = carray(at(address), (1,), JOB)[0]
    heads, blocks, columns = job.heads, job.blocks, job.columns
    width = columns // heads
    shares = carray(at(job.shares), (job.lanes // heads + 1,), np.int64)
    x = carray(at(job.x), (job.rows, columns), dtype)
    starts = carray(at(job.starts), (blocks + 1,), np.int64)
    histograms = carray(at(job.histogram), (job.lanes, BINS), np.uint32)
    binades = carray(at(job.binade_counts), (heads, blocks, job.binades), np.uint32)
    row_amax = carray(at(job.row_amax), (heads, job.rows), dtype)
    column_amax = carray(at(job.column_amax), (job.lanes // heads, columns), dtype)
    squares = carray(at(job.squares), (blocks, columns), np.float64)
    lane = claim(address)
    while lane < job.lanes:
        head, share = lane % heads, lane // heads
        first, last = head * width, (head + 1) * width
        seen = np.zeros(job.binades, np.uint32)
        for block in range(shares[share], shares[share + 1]):
            _count_block(
                x[starts[block] : starts[block + 1]],
                (first, last),
                mask,
                half_squares,
                histograms[lane],
                row_amax[head][starts[block] : starts[block + 1]],
                column_amax[share][first:last],
                squares[block][first:last],
            )
            _binades_since(histograms[lane], seen, binades[head, block])
        lane = claim(address)


@compiled
def _count_block(  # noqa: PLR0913, PLR0917 (compiled code takes no objects)
    x: Any,
    span: tuple[int, int],
    mask: Any,
    half_squares: Any,
    histogram: Any,
    row_amax: Any,
    column_amax: Any,
    squares: Any,
) -> None:
    """One block of rows, columns `span`. Loops are apart so that all but the last vectorise."""
    first, last = span
    columns = last - first
    widen = np.uint32(32 - 8 * x.itemsize)  # bf16 is the upper half of fp32
    drop = np.uint32(8 * x.itemsize - 16)
    floats = np.empty(columns, np.float32)
    as_bits = floats.view(np.uint32)
    squares[:] = 0
    for t in range(len(x)):
        row = x[t][first:last]
        largest = row[0] & mask
        for c in range(columns):
            bits = row[c] & mask
            largest = max(largest, bits)
            column_amax[c] = max(column_amax[c], bits)
        row_amax[t] = largest
        if half_squares is None:
            for c in range(columns):
                as_bits[c] = np.uint32(row[c]) << widen
            for c in range(columns):
                squares[c] += np.float64(floats[c]) * np.float64(floats[c])
        else:
            for c in range(columns):
                squares[c] += half_squares[row[c] & mask]
        for c in range(columns):
            histogram[(row[c] & mask) >> drop] += np.uint32(1)


@compiled
def _binades_since(histogram: Any, seen: Any, counts: Any) -> None:
    """What the running histogram gained, per binade, since `seen`, which is brought up to date."""
    width = len(histogram) // len(counts)
    for binade in range(len(counts)):
        total = np.uint32(0)
        for pattern in range(binade * width, (binade + 1) * width):
            total += histogram[pattern]
        counts[binade] = total - seen[binade]
        seen[binade] = total


_FP16_SQUARES = np.full(BINS, np.inf, np.float32)
_FP16_SQUARES[: FP16.first_nonfinite] = np.square(FP16.values())


def _count_bf16(job: int) -> None:
    _count_lanes(job, np.uint16, np.uint16(0x7FFF), None)


def _count_fp16(job: int) -> None:
    _count_lanes(job, np.uint16, np.uint16(0x7FFF), _FP16_SQUARES)


def _count_fp32(job: int) -> None:
    _count_lanes(job, np.uint32, np.uint32(0x7FFFFFFF), None)


_BODIES = {BF16.name: _count_bf16, FP16.name: _count_fp16, FP32.name: _count_fp32}


@cache
def _compiled_body(encoding: str) -> Any:
    return body(_BODIES[encoding])
