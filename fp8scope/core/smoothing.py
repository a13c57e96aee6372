"""SmoothQuant's factors: what is divided out of an activation's channel goes into the weight.

s_j = amax_x_j^α / amax_w_j^(1-α) (Xiao et al., arXiv 2211.10438, eq. 4); x/s and W·s compute the
same. In float formats a common factor of all channels changes nothing, so the factors are given
with a median of about 1, which keeps the folded weights near where they were.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def smoothing_factors(
    amax_input: Float32, amax_weight: Float32, alpha: float, *, powers_of_two: bool = True
) -> Float32:
    """Factors s, positive and finite, [..., channels], to which both arguments broadcast.

    amax_input: largest |x| of each channel; amax_weight: largest |W| of the column that reads it.
    A channel that no weight reads may be divided freely: it is brought down to the others. A
    channel that was always zero keeps s = 1. Powers of two leave every bit of a folded weight, as
    long as nothing overflows. They are rounded before the median is taken out, so that x·2^k with
    w·2^-k in some channels leaves x/s as it was, but for one power of two that all channels share.
    """
    x, w = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (amax_input, amax_weight)))
    both, unread = (x > 0) & (w > 0), (x > 0) & (w == 0)
    logs = np.zeros(x.shape)
    if not both.any():
        return np.ones(x.shape, np.float32)
    logs[both] = alpha * np.log2(x[both]) - (1 - alpha) * np.log2(w[both])
    if powers_of_two:
        logs[both] = _round(logs[both])
    middle = np.median(logs[both])
    logs[both] -= _round(middle) if powers_of_two else middle
    level = np.median(np.log2(x[both]) - logs[both])  # where a smoothed channel's amax lies
    logs[unread] = np.log2(x[unread]) - level
    if powers_of_two:
        logs[unread] = _round(logs[unread])
    return np.exp2(np.clip(logs, -100, 100)).astype(np.float32)


def _round(logs: NDArray[np.float64] | np.floating[Any]) -> Any:
    """To integers, halves up: unlike `rint`, it commutes with adding an integer."""
    return np.floor(logs + 0.5)
