"""The algebra of histograms, against the tensors themselves."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fp8scope.core.error import quantization_error
from fp8scope.core.formats import E4M3
from fp8scope.core.histogram import GAUSSIAN_BODY_RMS, Histogram
from fp8scope.core.magnitude import BF16, BINS, ENCODINGS, FP16, FP32, encoding
from fp8scope.errors import BadInput
from tests.core.tensors import gaussian, heavy, histogram, magnitudes

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
dtypes = pytest.mark.parametrize("dtype", list(DTYPES))
values = st.lists(st.floats(-6e4, 6e4, width=32), max_size=40)


def tensor(numbers: list[float], dtype: str = "bfloat16") -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32).to(DTYPES[dtype])


def same(a: Histogram, b: Histogram) -> bool:
    return np.array_equal(a.counts, b.counts) and (a.encoding, a.zeros, a.amax) == (
        b.encoding,
        b.zeros,
        b.amax,
    )


def test_every_pattern_has_its_magnitude() -> None:
    for kind, dtype in ((BF16, torch.bfloat16), (FP16, torch.float16)):
        patterns = torch.arange(kind.first_nonfinite, dtype=torch.int16)
        assert np.array_equal(kind.values(), patterns.view(dtype).float().numpy())
        assert not math.isfinite(float(torch.tensor(kind.first_nonfinite).short().view(dtype)))
    assert [kind.binades for kind in (BF16, FP16, FP32)] == [256, 32, 256]
    assert [kind.name for kind in (BF16, FP16, FP32)] == list(ENCODINGS)


def test_sub_points_lie_inside_their_bins() -> None:
    bins = np.arange(FP32.first_nonfinite)
    points, low = FP32.sub_points(bins), FP32.values()
    assert points.shape == (len(bins), 16)
    assert (points > low[:, None]).all()
    assert (points[:-1] < low[1:, None]).all()
    assert np.isfinite(points).all()
    assert FP16.sub_points(bins[:9]).shape == (9, 1)


def test_another_dtype_is_refused() -> None:
    with pytest.raises(BadInput, match="dtype float64 cannot be recorded"):
        encoding("float64")


@dtypes
@given(a=values, b=values, c=values)
def test_adding_is_counting_the_concatenation(
    dtype: str, a: list[float], b: list[float], c: list[float]
) -> None:
    one, two, three = (histogram(tensor(part, dtype)) for part in (a, b, c))
    whole = histogram(tensor(a + b + c, dtype))
    assert same(one + two, two + one)
    assert same((one + two) + three, one + (two + three))
    assert same(reduce(Histogram.__add__, (one, two, three)), whole)
    assert whole.elements == len(a + b + c)


def test_unlike_encodings_do_not_add() -> None:
    with pytest.raises(ValueError, match="bfloat16 and float16 do not add"):
        histogram(tensor([1.0])) + histogram(tensor([1.0], "float16"))


@dtypes
@given(
    numbers=st.lists(st.floats(-6e4, 6e4, width=32), min_size=1, max_size=60),
    q=st.floats(0, 1),
)
def test_quantiles_hold_their_share(dtype: str, numbers: list[float], q: float) -> None:
    x = tensor(numbers, dtype)
    found, sizes = histogram(x), magnitudes(x)
    if not len(sizes):
        assert (found.quantile_bin(q), found.quantile(q)) == (-1, 0.0)
        return
    exact = sizes[max(0, math.ceil(q * len(sizes) - 1e-9) - 1)]
    low = found.quantile(q)
    high = float(found.encoding.sub_points(np.array([found.quantile_bin(q)])).max())
    assert low <= exact
    assert exact == low if found.encoding.exact else exact <= high * (1 + 2**-10) + 1e-38


@dtypes
@given(q=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_quantiles_never_fall(dtype: str, q: tuple[float, float]) -> None:
    found = histogram(heavy(500).to(DTYPES[dtype]))
    assert found.quantile(min(q)) <= found.quantile(max(q))


def test_zeros_subnormals_and_nonfinite_are_told_apart() -> None:
    x = torch.tensor([0.0, -0.0, 1e-42, -1e-42, 1.5, math.inf, -math.inf, math.nan])
    found = histogram(x)
    assert (found.elements, found.zeros, found.nonfinite, found.amax) == (8, 2, 3, 1.5)
    assert found.counts[0] == 4  # fp32: bin 0 holds values under 2^-133 too
    points, weights, bins = found.points()
    assert weights.sum() == 3
    assert (points > 0).all()
    assert bins.max() < FP32.first_nonfinite


def test_points_never_exceed_amax() -> None:
    found = histogram(torch.tensor([1.0001, 0.5]))
    assert found.points()[0].max() == np.float32(1.0001)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sum_squares_equals_float64(dtype: str) -> None:
    x = heavy(20_000).to(DTYPES[dtype])
    assert histogram(x).sum_squares() == pytest.approx(float((x.double() ** 2).sum()), rel=1e-13)


def test_sum_squares_of_fp32_is_close() -> None:
    x = gaussian(20_000)
    assert histogram(x).sum_squares() == pytest.approx(float((x.double() ** 2).sum()), rel=1e-3)


@dtypes
@pytest.mark.parametrize("sigma", [1e-3, 1.0, 37.0])
def test_rms_of_the_body_is_sigma_for_a_gaussian(dtype: str, sigma: float) -> None:
    x = (gaussian(200_000) * sigma).to(DTYPES[dtype])
    assert histogram(x).rms_body() == pytest.approx(sigma, rel=0.01)


def test_the_gaussian_correction_is_the_integral() -> None:
    z = 1.6448536269514722
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    assert pytest.approx(math.sqrt(1 - 2 * z * density / 0.9), abs=1e-4) == GAUSSIAN_BODY_RMS


def test_the_outlier_ratio_sees_one_channel_of_64() -> None:
    x = gaussian(4000, 64)
    x[:, 5] *= 1e5
    found = histogram(x.to(torch.bfloat16))
    # 1/64 of the values lie outside the body, so it stays that of the other 63
    assert found.rms_body() == pytest.approx(1.0, rel=0.05)
    assert found.outlier_ratio() == pytest.approx(found.amax / found.rms_body())
    assert 2e5 < found.outlier_ratio() < 6e5


def test_zeros_do_not_dilute_the_body() -> None:
    x = gaussian(50_000)
    with_zeros = torch.cat((x, torch.zeros(500_000))).to(torch.bfloat16)
    assert histogram(with_zeros).rms_body() == histogram(x.to(torch.bfloat16)).rms_body()


@pytest.mark.parametrize("size", [0, 10])
@dtypes
def test_empty_and_all_zero(size: int, dtype: str) -> None:
    found = histogram(torch.zeros(size, dtype=DTYPES[dtype]))
    assert (found.elements, found.zeros, found.nonfinite) == (size, size, 0)
    assert (found.sum_squares(), found.rms_body(), found.outlier_ratio()) == (0, 0, 0)
    error = quantization_error(found, E4M3)
    assert (error.mse, error.saturation_rate, error.underflow_rate) == (0, 0, 0)
    assert error.sqnr_db == error.body_sqnr_db == math.inf


@given(power=st.integers(-30, 30), seed=st.integers(0, 9))
def test_sqnr_does_not_change_under_powers_of_two(power: int, seed: int) -> None:
    x = heavy(300, seed).to(torch.bfloat16)
    plain = quantization_error(histogram(x), E4M3)
    moved = quantization_error(histogram(x * 2.0**power), E4M3)
    assert moved.sqnr_db == pytest.approx(plain.sqnr_db, abs=1e-9)
    assert moved.body_sqnr_db == pytest.approx(plain.body_sqnr_db, abs=1e-9)
    assert moved.underflowed == plain.underflowed


def test_counts_have_one_bin_per_pattern() -> None:
    assert histogram(tensor([1.0])).counts.shape == (BINS,)
