"""The largest values of a matrix, with the token that each belongs to."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.core.top import Top

SMALLEST = np.float32(1e-45)  # zeros are never listed


def largest_values(
    matrix: Tensor,
    row_amax: NDArray[np.float32],
    sample: NDArray[np.int32],
    position: NDArray[np.int32],
    k: int,
) -> Top:
    """The k best of a matrix [rows, channels], in the order of `Top`.

    Row r is token position[r] of sample[r], and row_amax[r] its largest |value|, finite.
    """
    # Each of the first k rows in this order has a value that comes before all of a later row.
    rows = np.lexsort((position, sample, -row_amax))[:k]
    values = matrix[torch.from_numpy(rows).to(matrix.device)].float().cpu().numpy()
    size = np.abs(values)
    least = min(k, size.size)
    threshold = max(np.partition(size, size.size - least, axis=None)[-least], SMALLEST)
    at, channel = np.nonzero(size >= threshold)
    found = Top(values[at, channel], sample[rows[at]], position[rows[at]], channel.astype(np.int32))
    return found.take(found.rank()[:k])
