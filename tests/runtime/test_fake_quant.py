"""Fake quantization in torch is that of `core.formats`, bit for bit, with the obvious scales."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.core.formats import E2M1, E4M3, E5M2, INT4, INT8, Format, fake_quantize
from fp8scope.core.schemes import ROW, TENSOR, Scheme, Tile
from fp8scope.runtime import fake_quant

FORMATS = (E4M3, E5M2, INT8, INT4, E2M1)
TILES = (TENSOR, ROW, Tile(1, 128), Tile(128, 128), Tile(1, 16), Tile(3, 5))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Float32 = NDArray[np.float32]


def _values(*shape: int, dtype: torch.dtype = torch.float32, binades: int = 12) -> Tensor:
    """Normals over many binades, with zeros of both signs and halves between grid values."""
    generator = torch.Generator().manual_seed(shape[-1])
    scale = torch.exp2(torch.randint(-binades, 3, shape, generator=generator).float())
    x = torch.randn(shape, generator=generator) * scale
    x.view(-1)[::7] = (x.view(-1)[::7] * 16).round() / 16
    x.view(-1)[::31] = 0.0
    x.view(-1)[5::62] = -0.0
    return x.to(dtype)


def _by_tile(x: Float32, fmt: Format, tile: Tile) -> Float32:
    """Tile after tile of a matrix, edges smaller, by the reference in numpy."""
    result = np.zeros_like(x)
    height, width = (size or whole for size, whole in zip(tile, x.shape, strict=True))
    for top, left in product(range(0, x.shape[0], height), range(0, x.shape[1], width)):
        part = slice(top, top + height), slice(left, left + width)
        scale = np.abs(x[part]).max() / np.float32(fmt.max) or np.float32(1)
        result[part] = fake_quantize(x[part], scale, fmt).values
    return result


def _same_bits(got: Tensor, want: Float32) -> None:
    assert got.dtype is torch.float32
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.numpy().view(np.int32), want.view(np.int32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_dynamic_scales(tile: Tile, fmt: Format, dtype: torch.dtype) -> None:
    for shape in ((3, 40), (130, 257), (1, 1), (128, 128)):
        x = _values(*shape, dtype=dtype)
        before = x.clone()
        got = fake_quant.fake_quantize(x, Scheme(fmt, tile))
        _same_bits(got, _by_tile(x.float().numpy(), fmt, tile))
        assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_a_static_scale_saturates_and_flushes(fmt: Format, dtype: torch.dtype) -> None:
    x = _values(40, 50, dtype=dtype, binades=20)
    before = x.clone()
    for amax in (0.7, 1e-30, 3e4, 0.0):
        got = fake_quant.fake_quantize(x, Scheme(fmt, TENSOR, static=True), amax)
        want = fake_quantize(x.float().numpy(), fmt.scale(amax), fmt)
        _same_bits(got, want.values)
        assert want.saturated.any() == (amax in (0.7, 1e-30) or (amax == 0 and fmt.max < 8))
    assert torch.equal(x, before)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_every_value_around_every_grid_point(fmt: Format) -> None:
    """Under scale 1: grid points, the middles between them, and the float32 beside those."""
    points = np.array([], np.float32)
    for exponent in range(-18, 17):
        points = np.append(points, np.arange(16, 33, dtype=np.float32) * np.float32(2.0**exponent))
    points = np.concatenate(
        [points, np.nextafter(points, 0), np.nextafter(points, np.float32(1e9))]
    )
    x = np.concatenate([points, -points, [0.0, 1e-45, 3e38]]).astype(np.float32)[None]
    got = fake_quant.round_to(fmt, torch.from_numpy(x))
    _same_bits(got, fake_quantize(x, np.float32(1), fmt).values)


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_experts_are_apart(tile: Tile) -> None:
    x = _values(3, 20, 140) * torch.tensor([1.0, 1e4, 1e-4])[:, None, None]
    got = fake_quant.fake_quantize(x, Scheme(E4M3, tile))
    for expert, matrix in enumerate(x):
        _same_bits(got[expert], _by_tile(matrix.numpy(), E4M3, tile))


@pytest.mark.parametrize("scale_format", [None, E4M3], ids=["plain", "nvfp4"])
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_zeros_stay_zeros(fmt: Format, scale_format: Format | None) -> None:
    x = torch.zeros(20, 40)
    x[7, 20:30] = 3.0
    for tile in TILES if scale_format is None else (Tile(1, 16),):
        for amax in (None, 0.0, 3.0) if tile != TENSOR or scale_format else (None,):
            scheme = Scheme(fmt, tile, scale_format=scale_format)
            for values in (x, torch.zeros(20, 40)):
                got = fake_quant.fake_quantize(values, scheme, amax)
                assert got.isfinite().all()
                assert not got[values == 0].any()


def test_a_static_scheme_needs_its_amax() -> None:
    with pytest.raises(ValueError, match="amax"):
        fake_quant.fake_quantize(torch.ones(2, 2), Scheme(E4M3, TENSOR, static=True))


HALVES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
EIGHTHS = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()


def _nearest(x: np.float32, grid: Float32) -> np.float32:
    """By its definition: of two equally near the one with the even code."""
    distance = np.abs(np.float64(abs(x)) - grid)
    best = np.flatnonzero(distance == distance.min())
    code = best[0] if len(best) == 1 else best[best % 2 == 0][0]
    return np.float32(np.copysign(grid[code], x))


def _nvfp4(x: Float32, amax: float) -> Float32:
    """NVIDIA's recipe: E2M1 in blocks of 16, scales in E4M3 under one float32 amax / (6 · 448)."""
    outer = np.float32(amax) / np.float32(6 * 448)
    result = np.zeros_like(x)
    for row, left in product(range(len(x)), range(0, x.shape[1], 16)):
        block = x[row, left : left + 16]
        held = _nearest(np.abs(block).max() / np.float32(6) / outer, EIGHTHS)
        scale = held * outer
        for column, value in enumerate(block):
            if scale > 0:
                result[row, left + column] = _nearest(value / scale, HALVES) * scale
    return result


@pytest.mark.parametrize("static", [False, True])
def test_nvfp4_has_scales_on_two_levels(static: bool) -> None:
    x = _values(6, 72, binades=16)
    amax = 2.0 if static else float(x.abs().max())  # 2: some blocks exceed it
    scheme = Scheme(E2M1, Tile(1, 16), static=static, scale_format=E4M3)
    got = fake_quant.fake_quantize(x, scheme, amax if static else None)
    np.testing.assert_array_equal(got.numpy(), _nvfp4(x.numpy(), amax))
    assert not static or (got.abs() < x.abs().max()).all()


def test_a_block_whose_scale_underflows_is_flushed() -> None:
    """E4M3 ends at 2^-9: 4e7 below the largest value nothing is left, whatever it is."""
    x = torch.ones(1, 32)
    x[0, :16] *= 4e7
    got = fake_quant.fake_quantize(x, Scheme(E2M1, Tile(1, 16), scale_format=E4M3))
    assert not got[0, 16:].any()
