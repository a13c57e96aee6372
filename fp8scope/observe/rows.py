"""Read a matrix once and count everything: the inner loop of a scan.

A matrix is [rows, channels]: the tokens of one sequence, or the output rows of a weight. It is
walked in chunks that stay in cache, since large temporaries, not arithmetic, are what costs.
Each worker thread has its own scratch buffers and works on one matrix at a time, so the
result never depends on how many threads there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.core.magnitude import BINS, Encoding, encoding

CHUNK_ELEMENTS = 1 << 18  # 512 KiB of bf16: two chunks fit in a core's L2

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class RowStats:
    """Statistics of one matrix [rows, channels].

    histogram [32768] int64; row_amax [rows] and column_amax [channels] float32, exact, inf or
    NaN where the row or column holds one; column_sum_squares [channels] float64.
    """

    encoding: Encoding
    histogram: NDArray[np.int64]
    zeros: int
    row_amax: NDArray[np.float32]
    column_amax: NDArray[np.float32]
    column_sum_squares: NDArray[np.float64]

    @property
    def nonfinite(self) -> int:
        """Elements that are inf or NaN."""
        return int(self.histogram[self.encoding.first_nonfinite :].sum())


def tensor_encoding(tensor: Tensor) -> Encoding:
    """The encoding of a tensor's dtype. Raises BadInput for a dtype that has none."""
    return encoding(str(tensor.dtype).removeprefix("torch."))


def row_stats(matrix: Tensor) -> RowStats:
    """Statistics of a matrix [rows, channels] in bf16, fp16 or fp32. The matrix is only read."""
    rows, channels = matrix.shape
    kind = tensor_encoding(matrix)
    scratch = _scratch(matrix.device, kind.exact)
    counts = np.zeros(BINS, np.int64)
    row_bits, column_bits = [], None
    squares = np.zeros(channels)
    step = max(1, CHUNK_ELEMENTS // max(1, channels))
    for start in range(0, rows, step):
        chunk = matrix[start : start + step]
        bits, patterns = scratch.magnitude_bits(chunk)
        counts += torch.bincount(patterns.reshape(-1), minlength=BINS).cpu().numpy()
        row_bits.append(bits.amax(1))
        top = bits.amax(0)
        column_bits = top if column_bits is None else torch.maximum(column_bits, top)
        squares += scratch.column_sum_squares(chunk)
    zeros = int(counts[0])
    if zeros and not kind.exact:  # bin 0 of fp32 also holds values under 2^-133
        zeros = matrix.numel() - int(torch.count_nonzero(matrix))
    return RowStats(
        kind,
        counts,
        zeros,
        _bits_to_float32(torch.cat(row_bits), matrix.dtype),
        _bits_to_float32(_some(column_bits), matrix.dtype),
        squares,
    )


def pattern_counts(matrix: Tensor) -> NDArray[np.int64]:
    """Magnitude histogram [32768] of any tensor, and nothing else."""
    scratch = _scratch(matrix.device, tensor_encoding(matrix).exact)
    total = np.zeros(BINS, np.int64)
    flat = matrix.reshape(1, -1)
    for start in range(0, flat.shape[1], CHUNK_ELEMENTS):
        _, patterns = scratch.magnitude_bits(flat[:, start : start + CHUNK_ELEMENTS])
        total += torch.bincount(patterns.reshape(-1), minlength=BINS).cpu().numpy()
    return total


class Workers:
    """Threads that each run torch single-threaded: one matrix each beats one after another."""

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self.threads > 1:
            self._pool = ThreadPoolExecutor(
                self.threads, "fp8scope", initializer=torch.set_num_threads, initargs=(1,)
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown()
            torch.set_num_threads(self.threads)

    def map(self, function: Callable[[A], B], items: Iterable[A]) -> list[B]:
        """Results in the order of the items. Exceptions of the function pass through."""
        work = list(items)
        if self._pool is None or len(work) < 2:
            return [function(item) for item in work]
        return list(self._pool.map(function, work))


class _Scratch(threading.local):
    """Reused buffers of one thread, one device and one kind of dtype."""

    def __init__(self, device: torch.device, exact: bool) -> None:
        self.device = device
        self.exact = exact
        self.bits = self._buffer(torch.int16 if exact else torch.int32)
        self.patterns = self.bits if exact else self._buffer(torch.int16)
        self.floats = self._buffer(torch.float32)

    def _buffer(self, dtype: torch.dtype, size: int = CHUNK_ELEMENTS) -> Tensor:
        return torch.empty(size, dtype=dtype, device=self.device)

    def _take(self, name: str, shape: torch.Size) -> Tensor:
        buffer: Tensor = getattr(self, name)
        if shape.numel() > buffer.numel():
            buffer = self._buffer(buffer.dtype, shape.numel())
            setattr(self, name, buffer)
        return buffer[: shape.numel()].view(shape)

    def magnitude_bits(self, chunk: Tensor) -> tuple[Tensor, Tensor]:
        """Bits of |x| (15, or 31 for fp32) and their upper 15, as integers [r, c]."""
        bits = self._take("bits", chunk.shape)
        if self.exact:
            torch.bitwise_and(chunk.view(torch.int16), 0x7FFF, out=bits)
            return bits, bits
        torch.bitwise_and(chunk.view(torch.int32), 0x7FFFFFFF, out=bits)
        patterns = self._take("patterns", chunk.shape)
        patterns.copy_(bits >> 16)
        return bits, patterns

    def column_sum_squares(self, chunk: Tensor) -> NDArray[np.float64]:
        """Sum of squares of each column: float32 within the chunk, float64 across chunks."""
        values = self._take("floats", chunk.shape)
        values.copy_(chunk).square_()
        return values.sum(0).double().cpu().numpy()


_SCRATCH: dict[tuple[torch.device, bool], _Scratch] = {}


def _scratch(device: torch.device, exact: bool) -> _Scratch:
    return _SCRATCH.setdefault((device, exact), _Scratch(device, exact))


def _bits_to_float32(bits: Tensor, dtype: torch.dtype) -> NDArray[np.float32]:
    return bits.view(dtype).float().cpu().numpy()


def _some(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("a matrix without rows has no statistics")
    return tensor
