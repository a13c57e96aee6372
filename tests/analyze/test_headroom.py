"""Static scales tried on other traffic: against quantizing the values themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fp8scope.analyze.headroom import headroom, headroom_matrix, static_scales, tag_headroom
from fp8scope.analyze.saturation import Saturation, saturated_by_sequence, saturation
from fp8scope.core.error import quantization_error
from fp8scope.core.formats import E4M3, fake_quantize
from fp8scope.core.magnitude import BF16, FP32
from fp8scope.core.sites import Role
from fp8scope.profile.record import Profile
from tests.analyze.sites import of_amax, of_values
from tests.profiles import K_INPUT, KEYS, Q_INPUT, RESIDUAL, build

Float32 = NDArray[np.float32]
SCALES = st.sampled_from([2.0**-9, 0.003, 2.0**-7, 0.01, 1.0])


def sequence(values: list[int]) -> Float32:
    """Eighths: exact in bf16 up to 32."""
    return np.array([value / 8 for value in values], np.float32).reshape(2, 2)


SEQUENCES = st.lists(
    st.lists(st.integers(-255, 255), min_size=4, max_size=4).map(sequence), min_size=2, max_size=8
)


@given(SEQUENCES)
def test_a_tag_never_saturates_under_its_own_scale(values: list[Float32]) -> None:
    matrix = headroom_matrix(of_values(("a", "b"), *values), Q_INPUT)
    for tag, row in matrix.items():
        own = row.tags[tag]
        assert own.saturated_sequences + own.far_sequences == 0
        assert own.rate + sum(own.rate_interval) == 0
        assert own.clip == pytest.approx(1)


@given(SEQUENCES, SCALES)
def test_counts_are_those_of_the_values_themselves(values: list[Float32], scale: float) -> None:
    profile = of_values(("a", "b"), *values)
    for tag in (0, 1, None):
        mine = [x for i, x in enumerate(values) if tag is None or i % 2 == tag]
        clamped = [fake_quantize(x, np.float32(scale), E4M3).saturated for x in mine]
        found = saturation(profile, profile.sites[Q_INPUT], scale, tag)
        assert found.error.saturated == sum(int(c.sum()) for c in clamped)
        assert found.saturated_sequences == sum(bool(c.any()) for c in clamped)
        assert found.sequences == len(mine)
        assert found.rate_interval[0] <= found.rate <= found.rate_interval[1]
        assert found.share_interval[0] <= found.share <= found.share_interval[1]


@given(SEQUENCES, SCALES)
def test_sequences_sum_to_the_whole_and_whole_binades_are_exact(
    values: list[Float32], scale: float
) -> None:
    record = of_values(("a", "b"), *values).sites[Q_INPUT]
    step = np.float32(scale)
    hit = fake_quantize(record.sequence_amax, step, E4M3).saturated
    total = quantization_error(record.magnitudes(), E4M3, scale).saturated
    found = saturated_by_sequence(record.sequence_binades, hit, BF16, step, total)
    assert found.sum() == pytest.approx(total)
    assert (found[~hit] == 0).all()
    exact = [int(fake_quantize(x, step, E4M3).saturated.sum()) for x in values]
    limit = np.frexp(np.float32(464) * step)[1]
    if not any((np.frexp(x)[1] == limit).any() for x in values):  # nothing in the limit's binade
        assert found.tolist() == exact


def test_the_largest_is_clipped_by_what_it_exceeds() -> None:
    """`a` reaches 8; `b` comes with 8.25 (rounded away), 9 (clipped) and 16 (clipped by half)."""
    matrix = headroom_matrix(of_amax(("a", "b"), 8, 8.25, 8, 9, 8, 16), Q_INPUT)
    b = matrix["a"].tags["b"]
    assert (b.sequences, b.saturated_sequences, b.far_sequences) == (3, 2, 1)
    assert b.clip == pytest.approx(2)
    assert b.rate == 2 / (3 * 32)
    assert matrix["a"].worst_tag == "b"
    assert matrix["b"].worst.saturated_sequences == 0
    assert b.error.body_sqnr_db > 25


def test_every_site_by_calibration_the_worst_first() -> None:
    found = tag_headroom(build())
    assert [row.worst.severity for row in found] == sorted(row.worst.severity for row in found)
    assert {row.site for row in found} == {Q_INPUT, KEYS}
    assert {row.calibration for row in found} == {"prose", "code"}
    assert tag_headroom(build(tags=("one",))) == []


def test_scales_of_another_profile() -> None:
    scales = static_scales(of_amax(("a", "b"), 4, 8))
    assert scales == {Q_INPUT: pytest.approx(8 / 448)}
    assert static_scales(of_amax(("a", "b"), 4, 8), "a") == {Q_INPUT: pytest.approx(4 / 448)}
    (row,) = headroom(of_amax(("c",), 8, 32), scales, "last month")
    assert (row.calibration, row.worst_tag) == ("last month", "c")
    assert row.worst.saturated_sequences == 1
    (row,) = headroom(build(), {K_INPUT: 1.0})  # an alias
    largest = max(of.clip for of in row.tags.values())
    assert largest == pytest.approx(build().sites[Q_INPUT].amax.max() / 448)
    with pytest.raises(KeyError):
        headroom(of_amax(("a",), 1), {KEYS: 1.0})
    with pytest.raises(ValueError, match="not in tuple"):
        static_scales(build(), "poetry")
    assert RESIDUAL not in static_scales(build())
    assert all(site.role is not Role.WEIGHT for site in static_scales(build()))


def test_a_silent_tag_gives_no_scale() -> None:
    profile = of_values(("a", "b"), np.zeros((4, 8), np.float32), np.ones((4, 8), np.float32))
    assert list(headroom_matrix(profile, Q_INPUT)) == ["b"]
    assert static_scales(profile, "a") == {}


def test_what_a_tag_without_sequences_says() -> None:
    profile = of_amax(("a", "b"), 4)
    of = saturation(profile, profile.sites[Q_INPUT], 1.0, 1)
    assert (of.rate, of.share, of.rate_interval, of.share_interval) == (0, 0, (0, 0), (0, 1))


def test_fp32_sequences_are_judged_by_their_exact_amax() -> None:
    """465 and 464 share the bin of an fp32 histogram."""
    profile = of_amax(("a",), 465, 464, 464, 464)
    record = replace(profile.sites[Q_INPUT], encoding=FP32)
    found = saturation(profile, record, 1.0)
    assert found.saturated_sequences == 1
    assert found.rate_interval[0] == 0 < found.rate_interval[1]


# --- intervals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(0, 40, 0, 0.0876), (10, 100, 0.0552, 0.1744), (5, 5, 0.5655, 1)]
)
def test_wilson(hits: int, n: int, low: float, high: float) -> None:
    profile = of_amax(("a",), *[16.0] * hits, *[1.0] * (n - hits))
    of = saturation(profile, profile.sites[Q_INPUT], 8 / 448)
    assert of.share_interval == pytest.approx((low, high), abs=1e-4)
    assert of.far_interval == of.share_interval


def with_rates(rates: NDArray[np.float64], rng: np.random.Generator) -> Profile:
    """One sequence of 256 values for each rate: so many of them are 16, the others 1."""
    values = np.where(rng.random((len(rates), 32, 8)) < rates[:, None, None], 16.0, 1.0)
    return of_values(("a",), *values.astype(np.float32))


def test_the_bootstrap_holds_the_rate_of_the_population_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(1), 0
    for _ in range(60):
        profile = with_rates(rng.beta(2, 18, 60), rng)  # .1 on average, uneven
        low, high = saturation(profile, profile.sites[Q_INPUT], 8 / 448).rate_interval
        held += low <= 0.1 <= high
    assert 52 <= held <= 60  # of 60 at 95%: 57


def test_uneven_sequences_widen_the_interval() -> None:
    def width(rates: list[float]) -> float:
        profile = with_rates(np.array(rates), np.random.default_rng(0))
        low, high = saturation(profile, profile.sites[Q_INPUT], 8 / 448).rate_interval
        return high - low

    assert width([0, 1] * 20) > 3 * width([0.5] * 40)
    assert width([1.0] * 40) == 0


def test_severity_puts_far_above_often() -> None:
    def of(*amax: float) -> Saturation:
        profile = of_amax(("a",), *amax)
        return saturation(profile, profile.sites[Q_INPUT], 8 / 448)

    worst_first = [of(*[80] * 10), of(*[80] * 5, *[8] * 5), of(*[11] * 10), of(*[9] * 10), of(8)]
    assert sorted(worst_first, key=lambda row: row.severity) == worst_first
