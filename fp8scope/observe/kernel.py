"""The CPU's inner loop, compiled by numba: one read of a row counts, compares and squares it.

Several times faster than the torch operations in `rows.py`, which do the same in several passes
and are the reference that it is tested against. Compiled on first use (seconds), then cached.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

FLUSH_ROWS = 128  # float32 sums of squares are moved to float64 this often


@numba.njit(nogil=True, cache=True)
def count_magnitudes(
    x: NDArray[Any],
    mask: int,
    shift: int,
    histogram: NDArray[np.int64],
    row_amax: NDArray[Any],
    column_amax: NDArray[Any],
) -> None:
    """Add a matrix's magnitudes to a histogram and its amax, all as bits.

    x [rows, channels] uint16 or uint32, the bits of the floats; `mask` takes the sign away and
    `shift` leaves the upper 15 bits. row_amax [rows] is set, column_amax [channels] raised.
    """
    rows, channels = x.shape
    for t in range(rows):
        row = x[t]
        largest = row[0] & mask
        for c in range(channels):
            bits = row[c] & mask
            largest = max(largest, bits)
            column_amax[c] = max(column_amax[c], bits)
        row_amax[t] = largest
        for c in range(channels):
            histogram[(row[c] & mask) >> shift] += 1


@numba.njit(nogil=True, cache=True)
def add_squares(x: NDArray[Any], bf16: bool, total: NDArray[np.float64]) -> None:
    """Add each column's sum of squares to `total` [channels].

    x [rows, channels]: uint16 bits of bf16 if `bf16`, else the uint32 bits of float32.
    """
    rows, channels = x.shape
    bits = np.zeros(channels, np.uint32)
    values = bits.view(np.float32)
    partial = np.zeros(channels, np.float32)
    for t in range(rows):
        row = x[t]
        if bf16:
            for c in range(channels):
                bits[c] = np.uint32(row[c]) << np.uint32(16)
        else:
            for c in range(channels):
                bits[c] = row[c]
        for c in range(channels):
            partial[c] += values[c] * values[c]
        if t % FLUSH_ROWS == FLUSH_ROWS - 1 or t == rows - 1:
            for c in range(channels):
                total[c] += partial[c]
                partial[c] = 0
