"""The compiled kernel against the torch operations that it replaces on the CPU."""

import numpy as np
import pytest
import torch

from fp8scope.observe.rows import compiled_row_stats, torch_row_stats

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def matrix(dtype: torch.dtype, rows: int, channels: int) -> torch.Tensor:
    torch.manual_seed(rows * channels)
    values = torch.randn(rows, channels) * torch.logspace(-6, 4, channels)
    values[torch.rand(rows, channels) < 0.1] = 0
    values[0, 0] = 1e-40  # a subnormal of fp32 that falls into bin 0
    return values.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("parts", "channels"), [((1,), 1), ((5, 300, 1), 172), ((600,), 64), ((2, 2), 3000)]
)
def test_kernel_equals_torch(dtype: torch.dtype, parts: tuple[int, ...], channels: int) -> None:
    values = matrix(dtype, sum(parts), channels)
    kernel, reference = compiled_row_stats(values, parts), torch_row_stats(values, parts)
    assert np.array_equal(kernel.histograms, reference.histograms)
    assert np.array_equal(kernel.zeros, reference.zeros)
    assert np.array_equal(kernel.row_amax, reference.row_amax)
    assert np.array_equal(kernel.column_amax, reference.column_amax)
    sums, expected = kernel.column_sum_squares, reference.column_sum_squares
    np.testing.assert_allclose(sums, expected, rtol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_inf_and_nan_are_counted_and_seen(dtype: torch.dtype, bad: float) -> None:
    values = matrix(dtype, 40, 50)
    values[7, 3] = bad
    for stats in (compiled_row_stats(values, (40,)), torch_row_stats(values, (40,))):
        assert stats.nonfinite == 1
        assert np.flatnonzero(~np.isfinite(stats.row_amax)).tolist() == [7]
        assert np.flatnonzero(~np.isfinite(stats.column_amax)).tolist() == [3]


def test_a_strided_matrix_is_read_as_it_is() -> None:
    values = torch.randn(30, 64).bfloat16()
    one = compiled_row_stats(values.T, (64,))
    other = compiled_row_stats(values.T.contiguous(), (64,))
    assert np.array_equal(one.row_amax, other.row_amax)
