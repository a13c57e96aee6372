"""Rounding, bit for bit that of torch, and what is counted as saturated or underflowed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fp8scope.core.formats import E4M3, E5M2, INT8, Format, fake_quantize

TORCH = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
SCALES = (1.0, 2.0**-7, 0.37, 3e-3, 1e-9, 777.7, 5e20)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
formats = pytest.mark.parametrize("fmt", [E4M3, E5M2, INT8], ids=lambda fmt: fmt.name)
floating = pytest.mark.parametrize("fmt", [E4M3, E5M2], ids=lambda fmt: fmt.name)


def grid(fmt: Format) -> NDArray[np.float32]:
    """Every finite value of a format, as torch decodes its 256 bytes."""
    decoded = torch.arange(256, dtype=torch.uint8).view(TORCH[fmt.name]).float().numpy()
    return np.asarray(decoded[np.isfinite(decoded)])


def bf16_patterns() -> NDArray[np.float32]:
    """All finite bf16 magnitudes."""
    values = (np.arange(0x7F80, dtype=np.uint32) << 16).view(np.float32)
    return np.asarray(values)


def by_torch(x: NDArray[np.float32], scale: float, fmt: Format) -> NDArray[np.float32]:
    divided = torch.from_numpy(x) / torch.tensor(scale, dtype=torch.float32)
    cast = divided.clamp(-fmt.max, fmt.max).to(TORCH[fmt.name]).float()
    return np.asarray((cast * torch.tensor(scale, dtype=torch.float32)).numpy())


@floating
def test_every_value_of_the_format_is_on_the_grid(fmt: Format) -> None:
    values = grid(fmt)
    assert np.array_equal(fmt.round(values), values)
    assert values.max() == fmt.max
    positive = values[values > 0]
    assert positive.min() == fmt.smallest_subnormal
    assert len(values) == {"e4m3": 254, "e5m2": 248}[fmt.name]


@floating
def test_round_takes_the_nearest_and_ties_to_even(fmt: Format) -> None:
    values = np.unique(np.abs(grid(fmt)))
    middle = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    assert np.array_equal(fmt.round(np.nextafter(middle, np.float32(0))), values[:-1])
    assert np.array_equal(fmt.round(np.nextafter(middle, np.float32(np.inf))), values[1:])
    even = np.where(np.arange(len(middle)) % 2 == 0, values[:-1], values[1:])
    assert np.array_equal(fmt.round(middle), even)


@floating
@pytest.mark.parametrize("scale", SCALES)
def test_all_bf16_patterns_quantize_as_torch_casts(fmt: Format, scale: float) -> None:
    x = np.concatenate((bf16_patterns(), -bf16_patterns()))
    mine = fake_quantize(x, np.float32(scale), fmt).values
    assert mine.tobytes() == by_torch(x, scale, fmt).tobytes()


@floating
@given(x=finite, scale=st.floats(2.0**-60, 2.0**60, width=32))
def test_any_fp32_value_quantizes_as_torch_casts(fmt: Format, x: float, scale: float) -> None:
    values = np.array([x, -x], np.float32)
    mine = fake_quantize(values, np.float32(scale), fmt).values
    assert mine.tobytes() == by_torch(values, scale, fmt).tobytes()


def test_int8_is_symmetric_and_rounds_to_even() -> None:
    x = np.array([0.4, 0.5, 1.5, 2.5, -0.5, 126.6, 127.4, 127.6, -127.6, -1e9], np.float32)
    found = fake_quantize(x, np.float32(1), INT8)
    assert found.values.tolist() == [0, 0, 2, 2, 0, 127, 127, 127, -127, -127]
    assert found.saturated.tolist() == [False] * 7 + [True] * 3
    assert np.flatnonzero(found.underflowed).tolist() == [0, 1, 4]


@pytest.mark.parametrize(
    ("fmt", "last", "first"),
    [(E4M3, 464.0, 464.001), (E5M2, 61439.99, 61440.0), (INT8, 127.5 - 1e-5, 127.5)],
)
def test_saturation_is_counted_where_clamping_adds_error(
    fmt: Format, last: float, first: float
) -> None:
    # between max and the middle of the step after it, plain rounding gives max as well
    x = np.array([fmt.max, last, first, -first, 3e38], np.float32)
    found = fake_quantize(x, np.float32(1), fmt)
    assert found.saturated.tolist() == [False, False, True, True, True]
    assert np.abs(found.values).tolist() == [fmt.max] * 5


@formats
def test_a_scale_far_too_small_saturates_and_far_too_large_underflows(fmt: Format) -> None:
    x = np.array([3e38, -1.0, 0.0], np.float32)
    small = fake_quantize(x, np.float32(1e-45), fmt)
    assert small.saturated.tolist() == [True, True, False]
    large = fake_quantize(x, np.float32(3e38), fmt)
    assert large.underflowed.tolist() == [False, True, False]


@formats
def test_underflow_is_up_to_half_the_smallest_subnormal(fmt: Format) -> None:
    half = np.float32(fmt.smallest_subnormal / 2)
    found = fake_quantize(np.array([half, np.nextafter(half, np.float32(9))]), np.float32(1), fmt)
    assert found.underflowed.tolist() == [True, False]


@formats
@given(x=finite, scale=st.floats(2.0**-60, 2.0**60, width=32))
def test_quantizing_twice_changes_nothing(fmt: Format, x: float, scale: float) -> None:
    once = fmt.round(np.array([x], np.float32) / np.float32(2**64))
    assert np.array_equal(fmt.round(once), once)
    power = np.float32(2.0 ** int(np.log2(scale)))
    first = fake_quantize(np.array([x], np.float32), power, fmt)
    again = fake_quantize(first.values, power, fmt)
    assert np.array_equal(again.values, first.values)
    assert not again.saturated.any()
    assert not again.underflowed.any()


@formats
@given(a=finite, b=finite, scale=st.floats(2.0**-60, 2.0**60, width=32))
def test_quantizing_keeps_order_and_sign(fmt: Format, a: float, b: float, scale: float) -> None:
    x = np.array(sorted((a, b)), np.float32)
    low, high = fake_quantize(x, np.float32(scale), fmt).values
    assert low <= high
    mirrored = fake_quantize(-x, np.float32(scale), fmt).values
    assert np.array_equal(mirrored, -np.array([low, high]))


@formats
@given(amax=st.floats(2.0**-100, 2.0**127, width=32))
def test_the_scale_of_amax_never_saturates(fmt: Format, amax: float) -> None:
    found = fake_quantize(np.array([amax, -amax], np.float32), fmt.scale(amax), fmt)
    assert not found.saturated.any()
    assert np.allclose(np.abs(found.values), amax, rtol=2e-7)


@formats
def test_the_scale_is_never_zero(fmt: Format) -> None:
    assert fmt.scale(0.0) == 1
    assert fmt.scale(1e-45) > 0
    assert fmt.scale(448.0) == np.float32(448) / np.float32(fmt.max)
