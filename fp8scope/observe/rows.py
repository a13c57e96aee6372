"""Read a matrix once and count everything: the inner loop of a scan.

A matrix is [rows, channels]: the tokens of a micro-batch, or the output rows of a weight. It is
walked in chunks that stay in cache, since large temporaries, not arithmetic, are what costs.
Every reduction runs in an order that does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.core.magnitude import BF16, BINS, FP16, Encoding, encoding
from fp8scope.observe.kernel import add_squares, count_magnitudes

CHUNK_ELEMENTS = 1 << 18  # 512 KiB of bf16: two chunks fit in a core's L2


@dataclass(frozen=True)
class RowStats:
    """Statistics of a matrix [rows, channels] whose rows fall into consecutive parts.

    histograms [parts, 32768] int64, zeros [parts] int64; row_amax [rows] and
    column_amax [channels] float32, exact, inf or NaN where the row or column holds one;
    column_sum_squares [channels] float64.
    """

    encoding: Encoding
    histograms: NDArray[np.int64]
    zeros: NDArray[np.int64]
    row_amax: NDArray[np.float32]
    column_amax: NDArray[np.float32]
    column_sum_squares: NDArray[np.float64]

    @property
    def nonfinite(self) -> int:
        """Elements that are inf or NaN."""
        return int(self.histograms[:, self.encoding.first_nonfinite :].sum())


def tensor_encoding(tensor: Tensor) -> Encoding:
    """The encoding of a tensor's dtype. Raises BadInput for a dtype that has none."""
    return encoding(str(tensor.dtype).removeprefix("torch."))


def row_stats(matrix: Tensor, parts: Sequence[int]) -> RowStats:
    """Statistics of a matrix [rows, channels] in bf16, fp16 or fp32, which is only read.

    parts: lengths of consecutive runs of rows (sequences), adding up to `rows`, none zero.
    """
    if matrix.device.type == "cpu":
        return compiled_row_stats(matrix, parts)
    return torch_row_stats(matrix, parts)


def compiled_row_stats(matrix: Tensor, parts: Sequence[int]) -> RowStats:
    """`row_stats` by the compiled kernel, for a matrix in main memory."""
    kind = tensor_encoding(matrix)
    bits = _bits(matrix)
    mask, shift = (0x7FFF, 0) if kind.exact else (0x7FFFFFFF, 16)
    histograms = np.zeros((len(parts), BINS), np.int64)
    row_amax = np.empty(len(bits), bits.dtype)
    column_amax = np.zeros(bits.shape[1], bits.dtype)
    squares = np.zeros(bits.shape[1])
    widened = bits if kind is not FP16 else _bits(matrix.float())
    start = 0
    for part, rows in enumerate(parts):
        here = slice(start, start + rows)
        count_magnitudes(
            bits[here], bits.dtype.type(mask), shift, histograms[part], row_amax[here], column_amax
        )
        add_squares(widened[here], kind is BF16, squares)
        start += rows
    return RowStats(
        kind,
        histograms,
        _zeros(matrix, parts, histograms[:, 0], kind),
        _float32(_tensor(row_amax), matrix.dtype),
        _float32(_tensor(column_amax), matrix.dtype),
        squares,
    )


def torch_row_stats(matrix: Tensor, parts: Sequence[int]) -> RowStats:
    """`row_stats` by torch operations, on any device: the reference."""
    channels = matrix.shape[1]
    kind = tensor_encoding(matrix)
    scratch = _scratch(matrix.device, kind.exact)
    histograms = np.zeros((len(parts), BINS), np.int64)
    row_amax: list[Tensor] = []
    column_amax: list[Tensor] = []
    squares = np.zeros(channels)
    for part, chunk in _chunks(matrix, parts):
        patterns, ordered = scratch.magnitudes(chunk)
        histograms[part] += torch.bincount(patterns.reshape(-1), minlength=BINS).cpu().numpy()
        row_amax.append(ordered.amax(1))
        column_amax.append(ordered.amax(0))
        squares += scratch.column_sum_squares(chunk)
    return RowStats(
        kind,
        histograms,
        _zeros(matrix, parts, histograms[:, 0], kind),
        _float32(torch.cat(row_amax), matrix.dtype),
        _float32(torch.stack(column_amax).amax(0), matrix.dtype),
        squares,
    )


def _bits(matrix: Tensor) -> NDArray[Any]:
    """The bits of a matrix in main memory, as uint16 or uint32 [rows, channels]; no copy."""
    signed, unsigned = (
        (torch.int32, np.uint32) if matrix.dtype is torch.float32 else (torch.int16, np.uint16)
    )
    return matrix.contiguous().view(signed).numpy().view(unsigned)


def _tensor(bits: NDArray[Any]) -> Tensor:
    return torch.from_numpy(bits.view(np.int32 if bits.dtype == np.uint32 else np.int16))


def _chunks(matrix: Tensor, parts: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    step = max(1, CHUNK_ELEMENTS // max(1, matrix.shape[1]))
    start = 0
    for part, rows in enumerate(parts):
        for at in range(start, start + rows, step):
            yield part, matrix[at : min(at + step, start + rows)]
        start += rows


def _zeros(
    matrix: Tensor, parts: Sequence[int], lowest: NDArray[np.int64], kind: Encoding
) -> NDArray[np.int64]:
    """Exact zeros of each part; bin 0 of fp32 also holds values under 2^-133."""
    if kind.exact or not lowest.any():
        return lowest.copy()
    pieces = matrix.split(list(parts))  # type: ignore[no-untyped-call]
    return np.array([p.numel() - int(torch.count_nonzero(p)) for p in pieces], np.int64)


def pattern_counts(matrix: Tensor) -> NDArray[np.int64]:
    """Magnitude histogram [32768] of any tensor, and nothing else."""
    scratch = _scratch(matrix.device, tensor_encoding(matrix).exact)
    total = np.zeros(BINS, np.int64)
    flat = matrix.reshape(1, -1)
    for start in range(0, flat.shape[1], CHUNK_ELEMENTS):
        patterns, _ = scratch.magnitudes(flat[:, start : start + CHUNK_ELEMENTS])
        total += torch.bincount(patterns.reshape(-1), minlength=BINS).cpu().numpy()
    return total


class _Scratch:
    """Reused buffers of one device and one kind of dtype."""

    def __init__(self, device: torch.device, exact: bool) -> None:
        self.exact = exact
        self._patterns = torch.empty(CHUNK_ELEMENTS, dtype=torch.int16, device=device)
        self._floats = torch.empty(CHUNK_ELEMENTS, dtype=torch.float32, device=device)

    def _views(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        size = shape.numel()
        if size > self._patterns.numel():  # a single row may be longer than a chunk
            self._patterns = self._patterns.new_empty(size)
            self._floats = self._floats.new_empty(size)
        return self._patterns[:size].view(shape), self._floats[:size].view(shape)

    def magnitudes(self, chunk: Tensor) -> tuple[Tensor, Tensor]:
        """|x| of a chunk [r, c]: its upper 15 bits as int16, and what orders like |x| exactly.

        The second is those bits again for bf16 and fp16, and float32 for fp32.
        """
        patterns, floats = self._views(chunk.shape)
        if self.exact:
            torch.bitwise_and(chunk.view(torch.int16), 0x7FFF, out=patterns)
            return patterns, patterns
        torch.abs(chunk, out=floats)
        # the upper half of each float32, on a little-endian machine
        patterns.copy_(floats.view(torch.int16).view(*chunk.shape, 2)[..., 1])
        return patterns, floats

    def column_sum_squares(self, chunk: Tensor) -> NDArray[np.float64]:
        """Sum of squares of each column: float32 within the chunk, float64 across chunks.

        Follows `magnitudes` of the same chunk, whose float32 values it may use up.
        """
        _, floats = self._views(chunk.shape)
        if self.exact:
            floats.copy_(chunk)
        return floats.square_().sum(0).double().cpu().numpy()


_SCRATCH: dict[tuple[torch.device, bool], _Scratch] = {}


def _scratch(device: torch.device, exact: bool) -> _Scratch:
    return _SCRATCH.setdefault((device, exact), _Scratch(device, exact))


def _float32(ordered: Tensor, dtype: torch.dtype) -> NDArray[np.float32]:
    return ordered.view(dtype).float().cpu().numpy()
