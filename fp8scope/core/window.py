"""Histograms of many tensors at once: of each only the binades below its own largest value.

A dense histogram takes 256 KiB, and 48 layers of 128 experts hold 24,576 tensors. A window of 24
binades of 128 bins takes 12 KiB and is as exact inside. What lies below it, under 2^-23 of the
largest value, is only counted: E4M3 flushes to zero what lies under 2^-18 of the value at its
maximum. The window moves up with the largest value and never down, so that the result does not
depend on the order in which counts come.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fp8scope.core.magnitude import BINS

BINADES = 24
PER_BINADE = 128  # as bf16 and fp32 have it; fp16 values are counted as fp32
WINDOW = BINADES * PER_BINADE
NOTHING = -1  # the top binade of a tensor without any value but zeros
MOST = np.iinfo(np.uint32).max


@dataclass
class Windows:
    """Histograms of n tensors.

    zeros and below [n] int64; top_binade [n] int32, `NOTHING` where all is zero; histogram
    [n, 3072] uint32, whose last 128 bins are those of the top binade. A bin that 2^32 elements
    have reached counts no further.
    """

    zeros: NDArray[np.int64]
    below: NDArray[np.int64]
    top_binade: NDArray[np.int32]
    histogram: NDArray[np.uint32]

    def add(self, which: int, counts: NDArray[np.int64], zeros: int) -> None:
        """Add a dense histogram [32768] of finite values, `zeros` of them ±0, to one tensor."""
        self.zeros[which] += zeros
        self.below[which] += counts[0] - zeros  # fp32 under 2^-133
        used = np.flatnonzero(counts[1:])
        if not len(used):
            return
        self._raise(which, (int(used[-1]) + 1) // PER_BINADE)
        first = self._first_bin(which)
        lowest = max(first, 1)
        self.below[which] += counts[1:lowest].sum()
        self._count(which, lowest - first, counts[lowest : first + WINDOW])

    def add_window(self, which: int, other: Windows, source: int) -> None:
        """Add tensor `source` of other windows to one tensor of these."""
        self.zeros[which] += other.zeros[source]
        self.below[which] += other.below[source]
        if other.top_binade[source] == NOTHING:
            return
        self._raise(which, int(other.top_binade[source]))
        under = min(self._first_bin(which) - other._first_bin(source), WINDOW)
        theirs = other.histogram[source].astype(np.int64)
        self.below[which] += theirs[:under].sum()
        self._count(which, 0, theirs[under:])

    def dense(self, which: int) -> tuple[NDArray[np.int64], int]:
        """Counts [32768] of one tensor, and its zeros (in bin 0 as well).

        What lay below the window stands in the bin under it.
        """
        counts = np.zeros(BINS, np.int64)
        counts[0] = self.zeros[which]
        first = self._first_bin(which)
        lowest = max(first, 0)
        counts[max(first - 1, 0)] += self.below[which]
        counts[lowest : first + WINDOW] += self.histogram[which, lowest - first :]
        return counts, int(self.zeros[which])

    def _first_bin(self, which: int) -> int:
        """The bin of the window's first place; negative places count nothing."""
        return (int(self.top_binade[which]) + 1) * PER_BINADE - WINDOW

    def _raise(self, which: int, binade: int) -> None:
        """Move the window up to `binade`, if it is lower: its lowest bins fall below."""
        row = self.histogram[which]
        shift = (binade - int(self.top_binade[which])) * PER_BINADE
        if shift <= 0:
            return
        shift = min(shift, WINDOW)
        self.below[which] += row[:shift].sum(dtype=np.int64)
        row[: WINDOW - shift] = row[shift:].copy()
        row[WINDOW - shift :] = 0
        self.top_binade[which] = binade

    def _count(self, which: int, place: int, counts: NDArray[np.int64]) -> None:
        row = self.histogram[which, place : place + len(counts)]
        row[:] = np.minimum(row + counts, MOST)
