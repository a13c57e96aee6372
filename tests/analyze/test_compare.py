"""What changed from A to B, planted so that the answer is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fp8scope.analyze.compare import SiteChange, compare_profiles
from fp8scope.core.magnitude import FP32
from fp8scope.core.sites import Role, Site
from fp8scope.errors import CannotCompare
from fp8scope.profile.merge import merge_profiles
from fp8scope.profile.record import Profile
from tests.analyze.sites import of_amax, of_values, with_outlier
from tests.profiles import (
    CHANNELS,
    K_INPUT,
    KEYS,
    Q_INPUT,
    RESIDUAL,
    K,
    Q,
    build,
    invented_values,
    site_record,
    weight_record,
)

Float32 = NDArray[np.float32]
OTHER = {"name": "tuned", "weights_hash": "c" * 64, "config_hash": "b" * 64}


def changed(a: Profile, b: Profile, site: Site = Q_INPUT) -> SiteChange:
    (row,) = [row for row in compare_profiles(a, b).sites if row.site == site]
    return row


def test_a_profile_against_itself() -> None:
    found = compare_profiles(build(), build())
    assert found.drift == 0
    assert {row.site for row in found.sites} == {Q_INPUT, KEYS}
    for row in found.sites:
        assert row.amax_ratio == 1
        assert row.whole.rate == 0
        assert row.new_outliers == ()
        assert row.rank_a == row.rank_b
        assert not row.newly_damaged
    assert (found.weights, found.weights_compared) == ((), 2)
    assert (found.tags_only_a, found.tags_only_b, found.not_compared) == ((), (), ())


@given(st.permutations(range(6)), st.integers(1, 5))
def test_a_part_of_the_text_never_drifts_from_the_whole(order: list[int], cut: int) -> None:
    """A's amax is that of A's and B's text together, so nothing of B is clipped."""
    parts = [build("plan", sorted(order[:cut])), build("plan", sorted(order[cut:]))]
    merged = merge_profiles(parts)
    for part in parts:
        found = compare_profiles(merged, part)
        assert found.drift == 0
        assert all(row.whole.saturated_sequences == 0 for row in found.sites)
        assert all(row.amax_ratio <= 1 for row in found.sites)


@given(st.permutations(range(6)), st.integers(1, 5))
def test_comparing_with_a_merge_counts_what_its_parts_count(order: list[int], cut: int) -> None:
    calibration = of_amax(("prose", "code"), 4, 5)
    calibration.sites = {**calibration.sites, KEYS: build("other", range(2)).sites[KEYS]}
    parts = [build("plan", sorted(order[:cut])), build("plan", sorted(order[cut:]))]
    whole = changed(calibration, merge_profiles(parts)).whole
    of_parts = [changed(calibration, part).whole for part in parts]
    for name in ("saturated_sequences", "far_sequences", "sequences"):
        assert getattr(whole, name) == sum(getattr(part, name) for part in of_parts)
    assert whole.error.saturated == sum(part.error.saturated for part in of_parts)
    assert whole.clip == max(part.clip for part in of_parts)


def test_drift_is_what_is_clipped_far_for_certain() -> None:
    a = of_amax(("a",), *[8.0] * 20)
    row = changed(a, of_amax(("a",), *[8.0] * 19, 9))
    assert (row.whole.saturated_sequences, row.drift) == (1, 0)  # by 11%
    row = changed(a, of_amax(("a",), *[8.0] * 19, 16))
    assert row.whole.far_share == 0.05
    assert 0 < row.drift < 0.01  # one of 20 proves little
    found = compare_profiles(a, of_amax(("a",), *[16.0] * 20))
    assert found.drift > 0.8
    assert found.sites[0].amax_ratio == 2


def test_drift_of_one_tag_is_not_hidden_by_the_others() -> None:
    a = of_amax(("a", "b"), *[8.0] * 40)
    row = changed(a, of_amax(("a", "b", "c", "d"), *[8.0, 8.0, 8.0, 32.0] * 20))
    assert row.worst_tag == "d"
    assert row.drift == row.tags["d"].far_interval[0] > 0.8 > row.whole.far_interval[1]


def test_what_is_clipped_far_comes_first() -> None:
    a, b = build(), build()
    values = [(i % 2, np.full((3, CHANNELS), 40, np.float32)) for i in range(6)]
    b.sites = {**b.sites, KEYS: site_record(values, 2, heads=2)}
    found = compare_profiles(a, b)
    assert found.sites[0].site == KEYS
    assert found.drift == found.sites[0].drift > 0


def test_a_new_outlier_channel() -> None:
    x = np.ones((4, CHANNELS), np.float32)
    y, z = x.copy(), x.copy()
    y[1, 3], z[1, 3] = 12, 4
    (new,) = changed(of_values(("a",), x, z), of_values(("a",), x, y)).new_outliers
    assert (new.channel, new.over_median_a, new.over_median_b) == (3, 4, 12)
    y[1, 3], z[1, 3] = 12, 6  # it stood out before, or nearly so
    assert changed(of_values(("a",), x, z), of_values(("a",), x, y)).new_outliers == ()
    silent = of_values(("a",), np.zeros((4, CHANNELS), np.float32))
    assert changed(silent, of_values(("a",), x)).new_outliers == ()


def test_a_body_that_is_lost_in_b() -> None:
    row = changed(with_outlier(1), with_outlier(1.5e5))
    assert row.newly_damaged
    assert [new.channel for new in row.new_outliers] == [5]
    assert not changed(with_outlier(1.5e5), with_outlier(1)).newly_damaged


def test_the_order_of_severity_in_both() -> None:
    def of(q: float, keys: float) -> Profile:
        profile = with_outlier(q)
        profile.sites = {**profile.sites, KEYS: with_outlier(keys).sites[Q_INPUT]}
        return profile

    row = changed(of(1e5, 1), of(1e5, 1e6), KEYS)
    assert (row.rank_a, row.rank_b) == (2, 1)
    assert (changed(of(1e5, 1), of(1e5, 1e6)).rank_a) == 1


def test_silence() -> None:
    silent = of_values(("a",), np.zeros((4, CHANNELS), np.float32))
    assert changed(silent, silent).amax_ratio == 1
    assert changed(silent, of_amax(("a",), 1)).amax_ratio == np.inf
    assert changed(of_amax(("a",), 1), silent).amax_ratio == 0


def test_tags_of_one_side() -> None:
    found = compare_profiles(build(tags=("prose", "code")), build(tags=("code", "chat", "mail")))
    assert (found.tags_only_a, found.tags_only_b) == (("prose",), ("chat", "mail"))


# --- weights -----------------------------------------------------------------------------------


def tuned(change: Any) -> Profile:
    matrix = change(invented_values(7, 0, shape=(4, CHANNELS)))
    return build(model=OTHER, weights={**build().weights, Q: weight_record(matrix)})


def test_a_weight_that_differs() -> None:
    def double_a_row(matrix: Float32) -> Float32:
        matrix[2] *= 2
        return matrix

    (row,) = compare_profiles(build(), tuned(double_a_row)).weights
    assert (row.module, row.rows_changed, row.rows) == (Q, 1, 4)
    assert compare_profiles(build(), tuned(lambda matrix: matrix)).weights == ()
    assert (
        compare_profiles(build(), tuned(lambda matrix: -matrix)).weights == ()
    )  # magnitudes alone
    (row,) = compare_profiles(build(), tuned(lambda matrix: matrix[:, ::-1])).weights
    assert row.rows_changed == 0  # the same rows, but other columns


def test_one_step_of_one_small_value_is_a_difference() -> None:
    def nudge(matrix: Float32) -> Float32:
        where = np.unravel_index(np.abs(matrix).argmin(), matrix.shape)
        matrix[where] += np.float32(2.0**-20)
        return matrix

    assert len(compare_profiles(build(), tuned(nudge)).weights) == 1


def test_rounding_to_another_dtype_is_no_difference() -> None:
    def with_encoding(scale: float) -> Profile:
        matrix = invented_values(7, 0, shape=(4, CHANNELS)) * np.float32(scale)
        weights = {**build().weights, Q: weight_record(matrix, FP32)}
        return build(model=OTHER, weights=weights)

    assert compare_profiles(build(), with_encoding(1 + 2.0**-9)).weights == ()
    (row,) = compare_profiles(build(), with_encoding(1.1)).weights
    assert row.amax_ratio == pytest.approx(1.1)


# --- what can be compared ----------------------------------------------------------------------


def test_other_dtypes_are_compared() -> None:
    b = build()
    b.sites = {site: replace(record, encoding=FP32) for site, record in b.sites.items()}
    assert changed(build(), b).amax_ratio == 1


def test_an_input_that_only_one_side_shares() -> None:
    b = build()
    b.sites = {**b.sites, K_INPUT: b.sites[Q_INPUT]}
    b.aliases = {}
    found = compare_profiles(build(), b)
    assert found.not_compared == ()
    a = build()
    a.sites = {K_INPUT: a.sites[Q_INPUT]}
    a.aliases = {Q_INPUT: K_INPUT}
    assert changed(a, build(), K_INPUT).amax_ratio == 1


def test_what_one_side_does_not_have_is_named() -> None:
    wide = [(0, np.ones((3, 16), np.float32))]
    b = build(sites={Q_INPUT: build().sites[Q_INPUT], KEYS: site_record(wide, 1, heads=2)})
    b.weights = {K: b.weights[K]}
    found = compare_profiles(build(), b)
    assert found.not_compared == (str(KEYS), str(Site(Q, Role.WEIGHT)))
    assert [row.site for row in found.sites] == [Q_INPUT]


def test_nothing_in_common_is_refused() -> None:
    b = build(model={**OTHER, "name": "another"})
    b.sites, b.aliases = {RESIDUAL: b.sites[RESIDUAL]}, {}
    with pytest.raises(CannotCompare, match="invented and another have no layer of the same name"):
        compare_profiles(build(), b)
