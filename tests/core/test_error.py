"""What the histogram says of a scheme, against quantizing the tensor itself with torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fp8scope.core.error import decibel, quantization_error
from fp8scope.core.formats import E4M3, E5M2, INT8, Format
from fp8scope.core.histogram import Histogram
from tests.core.tensors import direct, gaussian, heavy, histogram

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
formats = pytest.mark.parametrize("fmt", [E4M3, E5M2], ids=lambda fmt: fmt.name)


@formats
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("factor", [1.0, 0.05, 3.0, 1e4])
@pytest.mark.parametrize("draw", [gaussian, heavy], ids=["gaussian", "heavy"])
def test_16_bit_dtypes_are_exact(fmt: Format, dtype: str, factor: float, draw: object) -> None:
    assert callable(draw)
    tensors = [draw(20_000, seed=seed).to(DTYPES[dtype]) for seed in range(3)]
    whole = torch.cat(tensors)
    total = sum((histogram(t) for t in tensors[1:]), histogram(tensors[0]))
    assert isinstance(total, Histogram)
    scale = float(fmt.scale(total.amax)) * factor
    found, expected = quantization_error(total, fmt, scale), direct(whole, fmt, scale)
    assert found.saturated == expected.saturated
    assert found.underflowed == expected.underflowed
    assert found.mse == pytest.approx(expected.mse, rel=1e-12)
    assert (found.saturated > 0) == (factor < 1)


@formats
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("freedom", "decibels"),
    # with 2 degrees of freedom a handful of values carries the energy, and where they lie in
    # their bins is not known
    [(None, 0.005), (5, 0.02), (2, 0.12)],
    ids=["gaussian", "heavy", "no variance"],
)
def test_fp32_is_within_its_bound(
    fmt: Format, seed: int, freedom: int | None, decibels: float
) -> None:
    x = gaussian(200_000, seed=seed) if freedom is None else heavy(200_000, seed, freedom)
    total = histogram(x)
    found = quantization_error(total, fmt)
    expected = direct(x, fmt, float(fmt.scale(total.amax)))
    assert found.sqnr_db == pytest.approx(expected.sqnr_db, abs=decibels)
    assert found.underflowed == pytest.approx(expected.underflowed, rel=0.02, abs=5)
    assert found.saturated == expected.saturated == 0


@formats
def test_fp32_knows_exactly_the_one_value_that_carries_the_energy(fmt: Format) -> None:
    x = torch.cat((gaussian(200_000, seed=1), torch.tensor([3e3])))
    total = histogram(x)
    found = quantization_error(total, fmt)
    expected = direct(x, fmt, float(fmt.scale(total.amax)))
    assert found.sqnr_db == pytest.approx(expected.sqnr_db, abs=0.01)


@settings(max_examples=60)
@given(
    st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda x: x == 0 or abs(x) > 2.0**-100),
        min_size=1,
        max_size=20,
    )
)
def test_fp32_never_shows_false_saturation(numbers: list[float]) -> None:
    total = histogram(torch.tensor(numbers, dtype=torch.float32))
    for fmt in (E4M3, E5M2, INT8):
        assert quantization_error(total, fmt).saturated == 0


def test_the_default_scale_is_amax_over_max() -> None:
    total = histogram(gaussian(1000).to(torch.bfloat16))
    assert quantization_error(total, E4M3) == quantization_error(total, E4M3, total.amax / 448)


def test_nonfinite_elements_are_counted_and_nothing_else() -> None:
    x = torch.tensor([1.0, math.inf, math.nan, 0.0], dtype=torch.bfloat16)
    found = quantization_error(histogram(x), E4M3)
    assert (found.elements, found.signal, found.noise) == (4, 1.0, 0.0)


@pytest.mark.parametrize(
    ("signal", "noise", "db"), [(100, 1, 20.0), (0, 0, math.inf), (1, 0, math.inf)]
)
def test_decibel(signal: float, noise: float, db: float) -> None:
    assert decibel(signal, noise) == db
    assert decibel(0, 1) == -math.inf


# ---- the table of when outliers hurt: body N(0,1), SQNR of the whole and of the body in dB

PLANTED = torch.arange(4) * 12 + 7


def planted(factor: float) -> Tensor:
    """A Gaussian of 64 channels, 4 of them multiplied."""
    x = gaussian(2048, 64)
    x[:, PLANTED] *= 3.8 / x[:, PLANTED].abs().max()  # the table's largest, in sigmas
    x[:, PLANTED] *= factor
    return x.to(torch.bfloat16)


@pytest.mark.parametrize(
    ("factor", "whole", "others", "underflow"),
    [
        (1.0, 31.5, 31.5, 0.0),
        (1e2, 31.5, 31.5, 0.0007),
        (1e4, 31.5, 26.4, 0.066),
        (1e5, 31.5, 6.5, 0.59),
    ],
)
def test_outlier_channels_leave_the_whole_and_flush_the_body(
    factor: float, whole: float, others: float, underflow: float
) -> None:
    x = planted(factor)
    found = quantization_error(histogram(x), E4M3)
    assert found.sqnr_db == pytest.approx(whole, abs=0.5)
    assert found.underflow_rate == pytest.approx(underflow, rel=0.1, abs=2e-4)
    plain = torch.ones(64, dtype=torch.bool)
    plain[PLANTED] = False
    scale = float(E4M3.scale(float(x.abs().max())))
    rest = quantization_error(histogram(x[:, plain]), E4M3, scale)
    assert rest.sqnr_db == pytest.approx(others, abs=0.5)
    # the body ends at the .9 quantile: without the tail of those channels it reads up to 2 dB less
    assert others - 2.5 < found.body_sqnr_db < others + 0.5


@pytest.mark.parametrize(("value", "others"), [(1e4, 31.3), (1e5, 18.0)])
def test_a_massive_value_raises_the_whole_while_the_body_falls(value: float, others: float) -> None:
    x = gaussian(2048, 64)
    x[0, 5] = value
    found = quantization_error(histogram(x.to(torch.bfloat16)), E4M3)
    assert found.sqnr_db > 50
    rest = quantization_error(histogram(x[1:].to(torch.bfloat16)), E4M3, value / 448)
    assert rest.sqnr_db == pytest.approx(others, abs=0.5)
    assert others - 2.5 < found.body_sqnr_db < others + 0.5


def test_int8_on_a_gaussian_and_under_outliers() -> None:
    assert 38 < quantization_error(histogram(planted(1.0)), INT8).sqnr_db < 42
    hurt = quantization_error(histogram(planted(100.0)), INT8)
    assert hurt.body_sqnr_db < 4
    assert hurt.underflow_rate == pytest.approx(0.86, abs=0.06)


def test_percentile_clipping_harms_e4m3() -> None:
    x = gaussian(512, 1024)
    x[:, PLANTED] *= 100
    clip = float(np.quantile(x.abs().numpy(), 0.999))
    total = histogram(x.to(torch.bfloat16))
    assert quantization_error(total, E4M3, clip / 448).sqnr_db == pytest.approx(9.9, abs=1)
    assert quantization_error(total, E4M3).sqnr_db == pytest.approx(31.4, abs=0.5)
