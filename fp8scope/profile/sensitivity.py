"""What a scan's second pass found: KL in nats per row (a thing that could be done) and sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fp8scope.core.choices import Row

if TYPE_CHECKING:
    from fp8scope.profile.record import Profile

Float64 = NDArray[np.float64]


@dataclass
class Sensitivity:
    """KL(true ‖ quantized) of the next-token distributions, in nats, summed over a sequence.

    `samples` [n] are the scored sequences, rows of text/samples; `stands_for` [n] is how many
    tokens of the calibration each of their tokens stands for: those of its tag in its scan over
    those of its tag that were scored. Shapes [rows, n]:
    `kl_token`, the estimate, squares each token's score (least variance, a small bias);
    `kl_sequence`, its check, squares the sum over the sequence (unbiased to second order);
    `kl_measured` is the KL itself, NaN where it was not measured. The first two are NaN for
    sequences that are still to come; `measured_done` counts batches of the last.
    """

    rows: tuple[Row, ...]
    samples: NDArray[np.int32]
    stands_for: Float64
    kl_token: Float64
    kl_sequence: Float64
    kl_measured: Float64
    batches_done: int = 0
    measured_done: int = 0

    @classmethod
    def empty(
        cls,
        rows: Sequence[Row],
        samples: Sequence[int],
        tags: NDArray[np.int32],
        lengths: NDArray[np.int32],
    ) -> Sensitivity:
        """Nothing scored yet. tags, lengths: those of all sequences of the calibration."""
        chosen = np.array(samples, np.int32)
        token, sequence, measured = np.full((3, len(rows), len(chosen)), np.nan)
        shares = stands_for(chosen, tags, lengths)
        return cls(tuple(rows), chosen, shares, token, sequence, measured)

    def per_token(self, tokens: NDArray[np.int32]) -> Float64:
        """KL in nats per token of each row, the estimate over all sequences, [rows].

        tokens [n]: the lengths of the scored sequences.
        """
        mean: Float64 = self.kl_token.sum(axis=1) / tokens.sum()
        return mean


def stands_for(
    samples: NDArray[np.int32], tags: NDArray[np.int32], lengths: NDArray[np.int32]
) -> Float64:
    """For each scored sequence, tokens of its tag in the calibration over those scored, [n]."""
    count = int(tags.max(initial=0)) + 1
    whole = np.bincount(tags, lengths, count)
    scored = np.bincount(tags[samples], lengths[samples], count)
    shares: Float64 = whole[tags[samples]] / scored[tags[samples]]
    return shares


def merge_sensitivity(
    a: Profile, b: Profile, numbers: tuple[NDArray[np.intp], ...]
) -> tuple[Sensitivity | None, str]:
    """Both parts' sequences in one, and a note on it; None where the parts were scored unlike.

    numbers: for each part, the new number of each of its samples.
    """
    first, second = a.sensitivity, b.sensitivity
    if first is None and second is None:
        return None, ""
    if first is None or second is None or first.rows != second.rows:
        return None, "sensitivity is left out: not both parts hold it, of the same candidates"
    samples = np.concatenate((numbers[0][first.samples], numbers[1][second.samples]))
    order = np.argsort(samples)  # so that the order of the parts changes no sum

    def both(name: str) -> NDArray[Any]:
        joined: NDArray[Any] = np.concatenate((getattr(first, name), getattr(second, name)), -1)
        return joined[..., order]

    joined = Sensitivity(
        first.rows,
        samples[order].astype(np.int32),
        both("stands_for"),
        both("kl_token"),
        both("kl_sequence"),
        both("kl_measured"),
        batches_done=first.batches_done + second.batches_done,
        measured_done=first.measured_done + second.measured_done,
    )
    return joined, "sensitivity: each part was scored under the static scales of its own text"
