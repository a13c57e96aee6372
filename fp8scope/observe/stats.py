"""What is known of a matrix after one reading, and what every way of reading it needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.core.magnitude import Encoding, encoding


@dataclass(frozen=True)
class RowStats:
    """Statistics of a matrix [rows, columns] whose rows fall into consecutive parts.

    histograms [heads, 32768] and zeros [heads] int64, a head being a run of columns; binades
    [parts, binades] int64; row_amax [rows] and column_amax [columns] float32, exact, inf or NaN
    where the row or column holds one; column_sum_squares [columns] float64.
    """

    encoding: Encoding
    histograms: NDArray[np.int64]
    zeros: NDArray[np.int64]
    binades: NDArray[np.int64]
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


def exact_zeros(matrix: Tensor, lowest: NDArray[np.int64], kind: Encoding) -> NDArray[np.int64]:
    """Zeros of each head [heads]; `lowest`, bin 0, of fp32 also holds values under 2^-133."""
    if kind.exact or not lowest.any():
        return lowest.copy()
    by_head = matrix.view(len(matrix), len(lowest), -1)
    return (len(matrix) * by_head.shape[2] - by_head.count_nonzero((0, 2))).cpu().numpy()
