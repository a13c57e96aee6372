"""Statistics of a matrix by rows, columns and heads: the inner loop of a scan.

A matrix is [rows, columns]: the tokens of a micro-batch, or the output rows of a weight. In main
memory the compiled kernel reads it once; on a device torch operations do the same in more passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.observe.kernel import block_starts, count
from fp8scope.observe.stats import RowStats, exact_zeros, tensor_encoding
from fp8scope.observe.torch_rows import torch_row_stats


def row_stats(matrix: Tensor, parts: Sequence[int], heads: int = 1) -> RowStats:
    """Statistics of a matrix [rows, columns] in bf16, fp16 or fp32, which is only read.

    parts: lengths of consecutive runs of rows (sequences), adding up to `rows`, none zero.
    heads: number of runs of columns that get a histogram each; divides `columns`.
    """
    if matrix.device.type == "cpu":
        return compiled_row_stats(matrix, parts, heads)
    return torch_row_stats(matrix, parts, heads)


def part_stats(matrix: Tensor, parts: Sequence[int]) -> list[RowStats]:
    """`row_stats` of each part by itself; in main memory parts run side by side."""
    if matrix.device.type != "cpu":
        return [torch_row_stats(part, (len(part),)) for part in torch.split(matrix, list(parts))]
    kind = tensor_encoding(matrix)
    starts, part_of_block = block_starts(parts, matrix.shape[1])
    shares = np.searchsorted(part_of_block, range(len(parts) + 1)).astype(np.int64)
    found = count(_bits(matrix), starts, 1, kind, shares)
    column_amax = _float32(found.column_amax, matrix.dtype)
    row_amax = _float32(found.row_amax[0], matrix.dtype)
    result = []
    for part, (first, last) in enumerate(pairwise(shares)):
        rows, histogram = slice(starts[first], starts[last]), found.histogram[part, None]
        result.append(
            RowStats(
                kind,
                histogram.astype(np.int64),
                exact_zeros(matrix[rows], histogram[:, 0].astype(np.int64), kind),
                found.binades[:, first:last].sum(1, np.int64),
                row_amax[rows],
                column_amax[part],
                found.squares[first:last].sum(0),
            )
        )
    return result


def compiled_row_stats(matrix: Tensor, parts: Sequence[int], heads: int = 1) -> RowStats:
    """`row_stats` by the compiled kernel, for a matrix in main memory."""
    kind = tensor_encoding(matrix)
    starts, part_of_block = block_starts(parts, matrix.shape[1])
    found = count(_bits(matrix), starts, heads, kind)
    histograms = found.histogram.reshape(-1, heads, found.histogram.shape[1]).sum(0, np.int64)
    binades = np.zeros((len(parts), kind.binades), np.int64)
    np.add.at(binades, part_of_block, found.binades.sum(0))
    return RowStats(
        kind,
        histograms,
        exact_zeros(matrix, histograms[:, 0], kind),
        binades,
        _float32(found.row_amax.max(0), matrix.dtype),
        _float32(found.column_amax.max(0), matrix.dtype),
        found.squares.sum(0),
    )


def _bits(matrix: Tensor) -> NDArray[Any]:
    """The bits of a matrix in main memory, as uint16 or uint32 [rows, columns]; no copy."""
    signed, unsigned = (
        (torch.int32, np.uint32) if matrix.dtype is torch.float32 else (torch.int16, np.uint16)
    )
    return matrix.contiguous().view(signed).numpy().view(unsigned)


def _float32(bits: NDArray[Any], dtype: torch.dtype) -> NDArray[np.float32]:
    signed = bits.view(np.int32 if bits.dtype == np.uint32 else np.int16)
    return torch.from_numpy(signed).view(dtype).float().numpy()
