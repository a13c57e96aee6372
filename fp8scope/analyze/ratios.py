"""Nats per token of sequences that were sampled by tag, with standard errors.

The sampled sequences are a part of each tag's, so the whole is the mean over tags weighted by
their tokens (stratified ratio estimator; Cochran, Sampling Techniques, 3rd ed., 6.10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Nats:
    """KL in nats per token with its standard error; NaN where one sequence gives none."""

    kl: float
    error: float


@dataclass(frozen=True)
class Sampled:
    """What the scored sequences stand for: `tokens` [sequences]; of each stratum its `sequences`,
    none without, the calibration's tokens that it stands for (`weights`), and its tag.
    """

    tokens: Float64
    strata: Sequence[NDArray[np.intp]]
    weights: Float64
    tags: Sequence[int]

    def weights_of_sequences(self, rng: np.random.Generator | None) -> Float64:
        """See `Scores.weights`."""
        found = np.zeros(len(self.tokens))
        shares = self.weights / max(self.weights.sum(), 1)
        for stratum, share in zip(self.strata, shares, strict=True):
            drawn = rng.choice(stratum, len(stratum)) if rng else stratum
            count = np.bincount(drawn, minlength=len(self.tokens))
            found += share * count / (count @ self.tokens)
        return found


class Ratios:
    """Nats [rows, sequences] over tokens by row and stratum: ratios whose error is that of their
    residuals.

    A stratum with a single sequence is taken to spread as the others do, relative to its nats, and
    where no other tells, its error is NaN.
    """

    def __init__(self, nats: Float64, sampled: Sampled) -> None:
        strata, tokens = sampled.strata, sampled.tokens
        self._kl, self._error = np.full((2, len(nats), len(strata)), np.nan)
        self._weights, self._tags = sampled.weights, np.array(sampled.tags)
        self._shares: dict[int | None, tuple[NDArray[np.bool_], Float64]] = {}
        for i, stratum in enumerate(strata):
            total, count = tokens[stratum].sum(), len(stratum)
            self._kl[:, i] = nats[:, stratum].sum(axis=1) / total
            if count > 1:
                with np.errstate(invalid="ignore"):  # infinite nats have no error
                    residuals = nats[:, stratum] - self._kl[:, i, None] * tokens[stratum]
                variance = count / (count - 1) * (residuals**2).sum(axis=1) / total**2
                self._error[:, i] = np.sqrt(variance)
        _borrow(self._kl, self._error, np.array([len(stratum) for stratum in strata]))

    def of(self, row: int, tag: int) -> Nats:
        """One tag of a row."""
        return self._mean(row, *self._of_tag(tag))

    def whole(self, row: int) -> Nats:
        """All tags of a row."""
        return self._mean(row, *self._of_tag(None))

    def of_all(self, tag: int | None = None) -> Float64:
        """The KL of every row, of all tags or of one, [rows]."""
        used, shares = self._of_tag(tag)
        kl: Float64 = self._kl[:, used] @ shares
        return kl

    def _of_tag(self, tag: int | None) -> tuple[NDArray[np.bool_], Float64]:
        """Which strata are of a tag, and the share of each; all strata of None."""
        if tag not in self._shares:
            used = np.full(len(self._tags), True) if tag is None else self._tags == tag
            shares = self._weights[used] / max(self._weights[used].sum(), 1)
            self._shares[tag] = used, shares
        return self._shares[tag]

    def _mean(self, row: int, used: NDArray[np.bool_], shares: Float64) -> Nats:
        kl = float(self._kl[row, used] @ shares)
        return Nats(kl, float(np.sqrt((self._error[row, used] ** 2) @ shares**2)))


def _borrow(kl: Float64, error: Float64, counts: NDArray[np.intp]) -> None:
    """Give tags with one sequence an error [rows, tags]: by the pooled relative variance of one
    sequence in the other tags.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        one = counts * (error / kl) ** 2
        freedom = np.where(np.isfinite(one), counts - 1, 0)
        pooled = np.where(freedom > 0, freedom * one, 0).sum(axis=1) / freedom.sum(axis=1)
    single = counts == 1
    error[:, single] = np.abs(kl[:, single]) * np.sqrt(pooled)[:, None]
