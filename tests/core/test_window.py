"""Windowed histograms: as exact as dense ones inside, in any order, and of a stated size."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fp8scope.core.magnitude import BINS
from fp8scope.core.window import BINADES, MOST, NOTHING, PER_BINADE, WINDOW, Windows

Counts = NDArray[np.int64]
# (bin, count) pairs of finite bf16 values, a few batches of them
BATCHES = st.lists(
    st.lists(st.tuples(st.integers(0, 0x7F7F), st.integers(1, 2**20)), max_size=6), max_size=5
)


def empty(tensors: int) -> Windows:
    return Windows(
        np.zeros(tensors, np.int64),
        np.zeros(tensors, np.int64),
        np.full(tensors, NOTHING, np.int32),
        np.zeros((tensors, WINDOW), np.uint32),
    )


def dense(batch: list[tuple[int, int]]) -> Counts:
    counts = np.zeros(BINS, np.int64)
    for place, count in batch:
        counts[place] += count
    return counts


def check(windows: Windows, which: int, total: Counts, zeros: int) -> None:
    """Against a window cut out of the whole at once."""
    nonzero = total.copy()
    nonzero[0] -= zeros
    used = np.flatnonzero(nonzero[1:])
    top = (int(used[-1]) + 1) // PER_BINADE if len(used) else NOTHING
    first = max(1, (top + 1 - BINADES) * PER_BINADE)
    assert windows.top_binade[which] == top
    assert windows.zeros[which] == zeros
    assert windows.below[which] == nonzero[:first].sum()
    found, found_zeros = windows.dense(which)
    assert found_zeros == zeros
    assert found.sum() == total.sum()
    np.testing.assert_array_equal(found[first:], nonzero[first:])


@given(BATCHES, st.randoms())
def test_any_order_gives_the_window_of_the_whole(
    batches: list[list[tuple[int, int]]], random: np.random.Generator
) -> None:
    random.shuffle(batches)
    windows = empty(2)
    for batch in batches:
        counts = dense(batch)
        windows.add(1, counts, int(counts[0]) // 2)
    zeros = sum(int(dense(batch)[0]) // 2 for batch in batches)
    check(windows, 1, np.sum([dense(batch) for batch in batches], 0, np.int64) + dense([]), zeros)
    check(windows, 0, dense([]), 0)


@given(BATCHES, BATCHES)
def test_windows_add_as_the_tensors_do(
    one: list[list[tuple[int, int]]], other: list[list[tuple[int, int]]]
) -> None:
    parts, whole = (empty(1), empty(1)), empty(1)
    for part, batches in zip(parts, (one, other), strict=True):
        for batch in batches:
            part.add(0, dense(batch), 0)
            whole.add(0, dense(batch), 0)
    both = empty(3)
    for part in parts:
        both.add_window(2, part, 0)
    for name, array in vars(whole).items():
        assert np.array_equal(getattr(both, name)[2], array[0]), name


def test_a_full_bin_counts_no_further() -> None:
    windows = empty(1)
    for _ in range(3):
        windows.add(0, dense([(500, 2**31)]), 0)
    assert windows.dense(0)[0][500] == MOST
