"""A magnitude histogram in bars, and what a number format under a scale makes of each magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import log2

import numpy as np
from numpy.typing import NDArray

from fp8scope.core.formats import Format
from fp8scope.core.histogram import Histogram

FAR_BELOW = 1e-6
"""Share of the values that may be drawn in the first bar with what lies below it."""


class Zone(Enum):
    """What becomes of a magnitude: its name in full, and where there is little room."""

    UNDERFLOW = "underflow", "to 0"
    SUBNORMAL = "subnormal", "sub"
    NORMAL = "normal", "norm"
    SATURATED = "saturates", "sat"


@dataclass(frozen=True)
class Limits:
    """Where the zones of a format under a scale end, as magnitudes: rounded to zero, smallest
    normal, and clamped to the format's max.
    """

    zero: float
    normal: float
    clamped: float

    @classmethod
    def of(cls, fmt: Format, scale: float) -> Limits:
        """An integer grid has no subnormals: its normals begin where it does."""
        zero = fmt.smallest_subnormal / 2
        normal = zero if fmt.mantissa_bits is None else fmt.smallest_normal
        return cls(zero * scale, normal * scale, fmt.saturates_above * scale)

    def zone(self, magnitude: float) -> Zone:
        """The zone of a magnitude."""
        if magnitude > self.clamped:
            return Zone.SATURATED
        if magnitude >= self.normal:
            return Zone.NORMAL
        return Zone.SUBNORMAL if magnitude > self.zero else Zone.UNDERFLOW


@dataclass(frozen=True)
class Bars:
    """`counts` of the columns, which divide the octaves from `low` to `high` equally."""

    counts: NDArray[np.float64]
    low: float
    high: float

    @classmethod
    def of(cls, histogram: Histogram, elements: int, limits: Limits, width: int) -> Bars:
        """Columns that show all values, but for the smallest: what lies below is in the first."""
        magnitudes, weights, _ = histogram.points()
        weights = weights * (elements / max(histogram.elements, 1))
        found = [limits.zero / 2, limits.clamped * 2]
        if len(magnitudes):
            order = np.argsort(magnitudes, kind="stable")
            below = np.cumsum(weights[order])
            first = order[np.searchsorted(below, FAR_BELOW * below[-1])]
            found += [float(magnitudes[first]), histogram.amax * 1.5]
        low, high = log2(max(min(found), 2.0**-149)), log2(max(found))
        at = np.log2(np.maximum(magnitudes.astype(np.float64), 2.0**-149)) - low
        column = np.clip((at / (high - low) * width).astype(np.int64), 0, width - 1)
        counts = np.bincount(column, weights, minlength=width).astype(np.float64)
        return cls(counts, low, high)

    def middle(self, column: int) -> float:
        """The magnitude in the middle of a column."""
        width = len(self.counts)
        return float(2.0 ** (self.low + (column + 0.5) * (self.high - self.low) / width))
