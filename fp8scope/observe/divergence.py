"""How far a model's next-token distributions have moved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SLICE_ELEMENTS = 1 << 20

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Moved:
    """Sums over the positions of each sequence, float64 [B].

    `kl`: KL(true ‖ other) in nats of all positions, and in `agreed` of them the same token is the
    most probable; `true_nats` and `other_nats`: −ln p of the token that does come next, at all
    positions but the last.
    """

    kl: Float64
    agreed: Float64
    true_nats: Float64
    other_nats: Float64

    def rows(self) -> Float64:
        """The sums [4, B], in the order of the fields."""
        return np.stack([getattr(self, field.name) for field in fields(self)])


def kl_by_sequence(true: Tensor, other: Tensor, lengths: Sequence[int]) -> Float64:
    """KL(true ‖ other) in nats, summed over the first `length` positions of each row, [B].

    true, other: logits [B, T, V]. In float64, a slice of positions at a time. What `true` rules out
    (a logit of -inf) adds nothing.
    """
    sums = np.zeros(len(lengths))
    for row, chosen in _slices(true, lengths):
        p, q = _log_softmax(true[row, chosen]), _log_softmax(other[row, chosen])
        sums[row] += _kl(p, q)
    return sums


def moved(true: Tensor, other: Tensor, input_ids: Tensor, lengths: Sequence[int]) -> Moved:
    """All that is measured of two models' logits [B, T, V] for `input_ids` [B, T], as
    `kl_by_sequence` sums it.
    """
    kl, agreed, true_nats, other_nats = np.zeros((4, len(lengths)))
    for row, chosen in _slices(true, lengths):
        p, q = _log_softmax(true[row, chosen]), _log_softmax(other[row, chosen])
        kl[row] += _kl(p, q)
        agreed[row] += int((p.argmax(dim=-1) == q.argmax(dim=-1)).sum())
        coming = input_ids[row, chosen.start + 1 : min(chosen.stop + 1, lengths[row]), None]
        true_nats[row] -= float(p[: len(coming)].gather(1, coming).sum())
        other_nats[row] -= float(q[: len(coming)].gather(1, coming).sum())
    return Moved(kl, agreed, true_nats, other_nats)


def _slices(logits: Tensor, lengths: Sequence[int]) -> Iterator[tuple[int, slice]]:
    step = max(1, SLICE_ELEMENTS // logits.shape[-1])
    for row, length in enumerate(lengths):
        for start in range(0, length, step):
            yield row, slice(start, min(start + step, length))


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.double().log_softmax(dim=-1)


def _kl(p: Tensor, q: Tensor) -> float:
    kl = float((p.exp() * (p - q)).where(p != -math.inf, 0.0).sum())
    return max(kl, 0.0)  # equal ones may round below
