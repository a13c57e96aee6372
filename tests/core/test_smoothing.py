"""SmoothQuant's factors: positive, finite, and without a trace of what was planted."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fp8scope.core.smoothing import smoothing_factors

Float32 = NDArray[np.float32]
SIZES = st.floats(2.0**-20, 2.0**20, width=32) | st.integers(-20, 20).map(lambda k: 2.0**k)
CHANNELS = st.integers(1, 12)
ALPHAS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@st.composite
def amaxes(draw: st.DrawFn, zeros: bool = False) -> tuple[Float32, Float32]:
    count = draw(CHANNELS)
    sizes = SIZES | st.just(0.0) if zeros else SIZES
    lists = (draw(st.lists(sizes, min_size=count, max_size=count)) for _ in range(2))
    x, w = (np.array(values, np.float32) for values in lists)
    return x, w


def _up_to_a_shared_factor(a: Float32, b: Float32, tolerance: float = 1e-9) -> bool:
    ratio = np.log2(a.astype(np.float64)) - np.log2(b.astype(np.float64))
    return bool(np.ptp(ratio) <= tolerance)


@given(amaxes(zeros=True), ALPHAS, st.booleans())
def test_factors_are_positive_and_finite(
    amax: tuple[Float32, Float32], alpha: float, powers: bool
) -> None:
    factors = smoothing_factors(*amax, alpha, powers_of_two=powers)
    assert factors.dtype == np.float32
    assert (np.isfinite(factors) & (factors > 0)).all()
    assert (factors[amax[0] == 0] == 1).all()
    if powers:
        assert (np.frexp(factors)[0] == 0.5).all()


@given(amaxes(), ALPHAS, st.data())
def test_what_is_planted_in_a_channel_is_undone(
    amax: tuple[Float32, Float32], alpha: float, data: st.DataObject
) -> None:
    """x·2^k with w·2^-k in some channels: x/s is as it was, to the bit but for one shared 2^n."""
    x, w = amax
    moved = data.draw(st.lists(st.integers(-24, 24), min_size=len(x), max_size=len(x)))
    plant = np.exp2(np.array(moved)).astype(np.float32)
    plain = smoothing_factors(x, w, alpha)
    planted = smoothing_factors(x * plant, w / plant, alpha)
    assert _up_to_a_shared_factor(x / plain, x * plant / planted)
    plain = smoothing_factors(x, w, alpha, powers_of_two=False)
    planted = smoothing_factors(x * plant, w / plant, alpha, powers_of_two=False)
    assert _up_to_a_shared_factor(x / plain, x * plant / planted, 1e-5)


@given(amaxes(), ALPHAS)
def test_they_are_the_paper_s_up_to_one_factor(amax: tuple[Float32, Float32], alpha: float) -> None:
    x, w = (a.astype(np.float64) for a in amax)
    exact = (x**alpha / w ** (1 - alpha)).astype(np.float64)
    found = smoothing_factors(*amax, alpha, powers_of_two=False)
    assert np.ptp(np.log2(found) - np.log2(exact)) <= 1e-5
    assert abs(np.median(np.log2(found))) <= 1e-5
    rounded = smoothing_factors(*amax, alpha)
    assert np.ptp(np.log2(rounded) - np.log2(exact)) <= 1 + 1e-9
    assert abs(np.median(np.log2(rounded))) <= 0.5


@given(
    amaxes(), ALPHAS, st.floats(2.0**-20, 2.0**20, width=32), st.floats(2.0**-20, 2.0**20, width=32)
)
def test_the_size_of_the_tensors_does_not_matter(
    amax: tuple[Float32, Float32], alpha: float, a: float, b: float
) -> None:
    plain = smoothing_factors(*amax, alpha, powers_of_two=False)
    scaled = smoothing_factors(
        amax[0] * np.float32(a), amax[1] * np.float32(b), alpha, powers_of_two=False
    )
    np.testing.assert_allclose(scaled, plain, rtol=1e-5)


def test_a_channel_that_no_weight_reads_comes_down_to_the_others() -> None:
    x = np.array([1, 2, 4, 2.0**20, 0], np.float32)
    w = np.array([1, 1, 1, 0, 1], np.float32)
    for alpha in (0.25, 0.5, 0.75):
        factors = smoothing_factors(x, w, alpha)
        smoothed = x / factors
        assert smoothed[3] <= 2 * smoothed[:3].max()
        assert factors[4] == 1
        without = smoothing_factors(x[[0, 1, 2, 4]], w[[0, 1, 2, 4]], alpha)
        np.testing.assert_array_equal(factors[[0, 1, 2, 4]], without)


def test_without_a_weight_or_an_input_nothing_is_smoothed() -> None:
    some, none = np.full(4, 8, np.float32), np.zeros(4, np.float32)
    for pair in ((some, none), (none, some), (none, none)):
        assert (smoothing_factors(*pair, 0.5) == 1).all()


def test_experts_are_brought_to_one_level_together() -> None:
    """They share the static scale of their input, so that no expert has a median of its own."""
    x = np.array([[1, 1, 1], [2.0**12, 2.0**12, 2.0**12], [1, 2.0**8, 0]], np.float32)
    factors = smoothing_factors(x, np.ones((3, 3), np.float32), 1.0)
    assert factors.shape == (3, 3)
    level = (x / factors)[x > 0]
    assert (level == level[0]).all()
    assert factors[2, 2] == 1
