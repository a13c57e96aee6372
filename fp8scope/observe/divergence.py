"""How far a model's next-token distributions have moved."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SLICE_ELEMENTS = 1 << 20


def kl_by_sequence(true: Tensor, other: Tensor, lengths: Sequence[int]) -> NDArray[np.float64]:
    """KL(true ‖ other) in nats, summed over the first `length` positions of each row, [B].

    true, other: logits [B, T, V]. In float64, a slice of positions at a time. What `true` rules out
    (a logit of -inf) adds nothing.
    """
    sums = np.zeros(len(lengths))
    step = max(1, SLICE_ELEMENTS // true.shape[-1])
    for row, length in enumerate(lengths):
        for start in range(0, length, step):
            chosen = slice(start, min(start + step, length))
            p = true[row, chosen].double().log_softmax(dim=-1)
            q = other[row, chosen].double().log_softmax(dim=-1)
            sums[row] += float((p.exp() * (p - q)).where(p > -math.inf, 0.0).sum())
    return sums
