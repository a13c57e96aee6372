"""Row statistics by torch operations, on any device: the GPU's path and the kernel's reference.

A matrix is walked in chunks that stay in cache, since large temporaries, not arithmetic, are what
costs. Every reduction runs in an order that does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.core.magnitude import BINS
from fp8scope.observe.stats import RowStats, exact_zeros, tensor_encoding

CHUNK_ELEMENTS = 1 << 18  # 512 KiB of bf16: two chunks fit in a core's L2


def torch_row_stats(matrix: Tensor, parts: Sequence[int], heads: int = 1) -> RowStats:
    """`rows.row_stats` by torch operations."""
    kind = tensor_encoding(matrix)
    scratch = _scratch(matrix.device, kind.exact)
    histograms = np.zeros((heads, BINS), np.int64)
    binades = np.zeros((len(parts), kind.binades), np.int64)
    row_amax: list[Tensor] = []
    column_amax: list[Tensor] = []
    squares = np.zeros(matrix.shape[1])
    for part, chunk in _chunks(matrix, parts):
        patterns, ordered = scratch.magnitudes(chunk)
        by_head = patterns.view(len(chunk), heads, -1)
        for head in range(heads):
            counts = torch.bincount(by_head[:, head].reshape(-1), minlength=BINS).cpu().numpy()
            histograms[head] += counts
            binades[part] += counts.reshape(kind.binades, -1).sum(1)
        row_amax.append(ordered.amax(1))
        column_amax.append(ordered.amax(0))
        squares += chunk.double().square_().sum(0).cpu().numpy()
    return RowStats(
        kind,
        histograms,
        exact_zeros(matrix, histograms[:, 0], kind),
        binades,
        _float32(torch.cat(row_amax), matrix.dtype),
        _float32(torch.stack(column_amax).amax(0), matrix.dtype),
        squares,
    )


def _chunks(matrix: Tensor, parts: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    step = max(1, CHUNK_ELEMENTS // max(1, matrix.shape[1]))
    start = 0
    for part, rows in enumerate(parts):
        for at in range(start, start + rows, step):
            yield part, matrix[at : min(at + step, start + rows)]
        start += rows


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


_SCRATCH: dict[tuple[torch.device, bool], _Scratch] = {}


def _scratch(device: torch.device, exact: bool) -> _Scratch:
    return _SCRATCH.setdefault((device, exact), _Scratch(device, exact))


def _float32(ordered: Tensor, dtype: torch.dtype) -> NDArray[np.float32]:
    return ordered.view(dtype).float().cpu().numpy()
