"""The algebra of magnitude histograms: add them, ask for quantiles, moments and the body.

Histograms add, so statistics of batches, ranks, machines and tags merge exactly, and any
per-tensor scheme can be tried later on the counts alone (see `error.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fp8scope.core.magnitude import Encoding

BODY_QUANTILE = 0.9
# RMS of a standard normal truncated at its .9 quantile of |x| (z = 1.6449):
# sqrt(1 - 2 z φ(z) / .9), the variance of a doubly truncated normal.
GAUSSIAN_BODY_RMS = 0.7893


@dataclass(frozen=True)
class Histogram:
    """Counts of magnitudes. `counts`: [32768] int64, one bin per bit pattern of |x|.

    `zeros` is exact (for fp32, bin 0 also holds values under 2^-133); `amax` is the exact
    largest finite magnitude.
    """

    encoding: Encoding
    counts: NDArray[np.int64]
    zeros: int
    amax: float

    def __add__(self, other: Histogram) -> Histogram:
        """Histogram of both tensors together. Raises ValueError on unlike encodings."""
        if self.encoding != other.encoding:
            raise ValueError(f"{self.encoding.name} and {other.encoding.name} do not add")
        counts = self.counts + other.counts
        return Histogram(
            self.encoding, counts, self.zeros + other.zeros, max(self.amax, other.amax)
        )

    @property
    def elements(self) -> int:
        """All elements, zeros and non-finite ones included."""
        return int(self.counts.sum())

    @property
    def nonfinite(self) -> int:
        """Elements that are inf or NaN."""
        return int(self.counts[self.encoding.first_nonfinite :].sum())

    def nonzero_counts(self) -> NDArray[np.int64]:
        """Counts of the finite bins with the exact zeros taken out, [first_nonfinite]."""
        counts = self.counts[: self.encoding.first_nonfinite].copy()
        counts[0] -= self.zeros
        return counts

    def points(self) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
        """Finite, non-zero magnitudes with weights, and the bin of each.

        Each array is [n]. The weights sum to the number of such elements. Where a bin is an
        interval (fp32), one element stands exactly at `amax`, which may carry all the energy,
        and the sub-points, for all others, never exceed it.
        """
        counts = self.nonzero_counts()
        bins = np.flatnonzero(counts)
        magnitudes = np.minimum(self.encoding.sub_points(bins), np.float32(self.amax))
        per_bin = magnitudes.shape[1]
        weights = counts[bins].astype(np.float64)
        if self.encoding.exact or not len(bins):
            return magnitudes.ravel(), weights, bins
        weights[-1] -= 1
        return (
            np.append(magnitudes.ravel(), np.float32(self.amax)),
            np.append(np.repeat(weights / per_bin, per_bin), 1.0),
            np.append(np.repeat(bins, per_bin), bins[-1]),
        )

    def quantile_bin(self, q: float) -> int:
        """Bin that holds the q-quantile of the finite non-zero magnitudes; -1 if none."""
        cumulative = np.cumsum(self.nonzero_counts())
        if cumulative[-1] == 0:
            return -1
        return int(np.searchsorted(cumulative, max(1, q * cumulative[-1])))

    def quantile(self, q: float) -> float:
        """The q-quantile of the finite non-zero magnitudes (lower edge of its bin); 0 if none."""
        where = self.quantile_bin(q)
        return float(self.encoding.values()[where]) if where >= 0 else 0.0

    def sum_squares(self) -> float:
        """Sum of squares of the finite elements."""
        magnitudes, weights, _ = self.points()
        return float(np.sum(weights * magnitudes.astype(np.float64) ** 2))

    def rms_body(self) -> float:
        """RMS of the body: what σ would be if the body were that of a Gaussian. 0 if empty.

        The body is the non-zero magnitudes up to the bin of their .9 quantile; its RMS is
        divided by .789, that of a Gaussian cut there. Zeros stay out: every format holds them
        exactly, and behind a ReLU they would be the whole body.
        """
        magnitudes, weights, bins = self.points()
        body = bins <= self.quantile_bin(BODY_QUANTILE)
        if not body.any():
            return 0.0
        energy = float(np.sum(weights[body] * magnitudes[body].astype(np.float64) ** 2))
        return float(np.sqrt(energy / np.sum(weights[body]))) / GAUSSIAN_BODY_RMS

    def outlier_ratio(self) -> float:
        """Ratio amax / rms_body: how far the largest value stands above the bulk. 0 if empty."""
        body = self.rms_body()
        return self.amax / body if body > 0 else 0.0
