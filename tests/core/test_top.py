"""Merging top lists in any order equals sorting everything at once."""

from __future__ import annotations

import random
from functools import reduce

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fp8scope.core.top import Top, merge_top

Entry = tuple[float, int, int, int]
# few different values and places, so that ties are common
coordinates = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2))
entries = st.dictionaries(coordinates, st.sampled_from([-3.0, -1.5, 1.5, 2.0, 3.0]), max_size=30)


def top(rows: list[Entry]) -> Top:
    return Top(
        np.array([row[0] for row in rows], np.float32),
        *(np.array([row[i] for row in rows], np.int32) for i in (1, 2, 3)),
    )


def rows_of(found: Top) -> list[Entry]:
    columns = (found.value, found.sample, found.position, found.channel)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(
    values=entries,
    k=st.integers(1, 12),
    cuts=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    seed=st.integers(0, 999),
)
def test_merging_equals_brute_force_in_any_order(
    values: dict[tuple[int, int, int], float], k: int, cuts: tuple[int, int], seed: int
) -> None:
    everything = [(value, *at) for at, value in values.items()]
    best = sorted(everything, key=lambda row: (-abs(row[0]), *row[1:]))[:k]
    first, second = min(cuts), max(cuts)
    parts = [everything[:first], everything[first:second], everything[second:]]
    random.Random(seed).shuffle(parts)  # noqa: S311
    lists = [merge_top(Top.empty(), top(part), k) for part in parts]
    assert rows_of(reduce(lambda a, b: merge_top(a, b, k), lists)) == best
    a, b, c = lists
    assert rows_of(merge_top(a, merge_top(b, c, k), k)) == best


def test_value_keeps_its_sign_and_dtypes_survive() -> None:
    merged = merge_top(top([(-2.0, 0, 0, 0)]), top([(1.0, 0, 1, 0), (2.0, 1, 0, 0)]), 2)
    assert rows_of(merged) == [(-2.0, 0, 0, 0), (2.0, 1, 0, 0)]
    assert [str(c.dtype) for c in (merged.value, merged.sample)] == ["float32", "int32"]
    assert len(Top.empty()) == 0
    assert len(merge_top(Top.empty(), Top.empty(), 5)) == 0
