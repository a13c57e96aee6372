"""The compiled kernel against the torch operations that it replaces on the CPU."""

import dataclasses
from typing import Any

import numba
import numpy as np
import pytest
import torch

from fp8scope.observe.rows import compiled_row_stats, part_stats
from fp8scope.observe.torch_rows import torch_row_stats
from fp8scope.runtime import team

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def matrix(dtype: torch.dtype, rows: int, channels: int) -> torch.Tensor:
    torch.manual_seed(rows * channels)
    values = torch.randn(rows, channels) * torch.logspace(-6, 4, channels)
    values[torch.rand(rows, channels) < 0.1] = 0
    values[0, 0] = 1e-40  # a subnormal of fp32 that falls into bin 0
    return values.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("parts", "channels", "heads"),
    [
        ((1,), 1, 1),
        ((5, 300, 1), 172, 1),
        ((5, 300, 1), 172, 4),
        ((600, 700), 64, 2),
        ((2, 2), 3000, 1),
    ],
)
def test_kernel_equals_torch(
    dtype: torch.dtype, parts: tuple[int, ...], channels: int, heads: int
) -> None:
    values = matrix(dtype, sum(parts), channels)
    kernel = compiled_row_stats(values, parts, heads)
    reference = torch_row_stats(values, parts, heads)
    assert kernel.histograms.shape == (heads, 32768)
    assert kernel.binades.sum(1).tolist() == [rows * channels for rows in parts]
    assert np.array_equal(kernel.binades, reference.binades)
    assert np.array_equal(kernel.histograms, reference.histograms)
    assert np.array_equal(kernel.zeros, reference.zeros)
    assert np.array_equal(kernel.row_amax, reference.row_amax)
    assert np.array_equal(kernel.column_amax, reference.column_amax)
    sums, expected = kernel.column_sum_squares, reference.column_sum_squares
    np.testing.assert_allclose(sums, expected, rtol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [(1,), (5, 300, 1), (600, 2, 700, 31)])
def test_parts_side_by_side_equal_each_by_itself(
    dtype: torch.dtype, parts: tuple[int, ...]
) -> None:
    values = matrix(dtype, sum(parts), 172)
    found = part_stats(values, parts)
    assert len(found) == len(parts)
    for stats, rows in zip(found, torch.split(values, list(parts)), strict=True):
        alone = compiled_row_stats(rows, (len(rows),))
        for field in dataclasses.fields(alone):
            got, want = getattr(stats, field.name), getattr(alone, field.name)
            assert np.array_equal(got, want), field.name


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [1, 3])
def test_any_number_of_threads_gives_the_same_bits(dtype: torch.dtype, heads: int) -> None:
    values, parts = matrix(dtype, 5000, 69), (1, 3000, 1999)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(compiled_row_stats(values, parts, heads))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for field in dataclasses.fields(other):
            ours, theirs = getattr(found[0], field.name), getattr(other, field.name)
            assert np.array_equal(ours, theirs), field.name


def test_without_torch_s_threads_the_job_is_done_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = matrix(torch.bfloat16, 900, 96)
    expected = compiled_row_stats(values, (900,))
    monkeypatch.setattr(team, "_parallel", lambda: team._alone)
    alone = compiled_row_stats(values, (900,))
    assert np.array_equal(alone.histograms, expected.histograms)
    assert np.array_equal(alone.column_sum_squares, expected.column_sum_squares)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("magnitude", [2e19, 1e-23])
def test_squares_beyond_float32_are_summed(dtype: torch.dtype, magnitude: float) -> None:
    values = torch.full((300, 7), magnitude).to(dtype)
    expected = values.double().square().sum(0).numpy()
    for stats in (compiled_row_stats(values, (300,)), torch_row_stats(values, (300,))):
        np.testing.assert_allclose(stats.column_sum_squares, expected, rtol=1e-12)


def test_a_place_where_numba_cannot_cache_only_costs_the_compilation() -> None:
    scope: dict[str, Any] = {}
    exec(compile("def twice(x):\n    return 2 * x\n", "<nowhere>", "exec"), scope)  # noqa: S102
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(scope["twice"])
    assert team.compiled(scope["twice"])(21) == 42
