"""Quantize and multiply back, in torch: what a GEMM in a low format reads.

Rounding and clamping equal `core.formats` bit for bit (a test holds them together).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fp8scope.core.formats import E4M3, E5M2, Format
from fp8scope.core.schemes import ALL, TENSOR, Scheme
from fp8scope.runtime.casts import cast

CASTS = {E4M3.name: torch.float8_e4m3fn, E5M2.name: torch.float8_e5m2}
SMALLEST = torch.finfo(torch.float32).smallest_normal


def round_to(fmt: Format, x: Tensor) -> Tensor:
    """Nearest value of the format, ties to even, clamped to its range; float32 in and out."""
    x = x.clamp(-fmt.max, fmt.max)
    if fmt.name in CASTS:
        return x.to(CASTS[fmt.name]).float()
    if fmt.mantissa_bits is None:
        return x.round_()
    _, exponent = torch.frexp(x)
    lowest = int(torch.frexp(torch.tensor(fmt.smallest_normal))[1])
    step = exponent.clamp(min=lowest) - (fmt.mantissa_bits + 1)
    return torch.ldexp(torch.ldexp(x, -step).round_(), step)


def fake_quantize(x: Tensor, scheme: Scheme, amax: float | None = None) -> Tensor:
    """`x` [..., rows, columns] quantized by `scheme` and multiplied back, in float32.

    amax: the largest value in calibration, which a static scheme takes its scale from (of a
    `scale_format`, the scale of the scales). What is not static has scales from each tile's own
    amax; a tile never spans the leading axes. Raises ValueError for a static scheme without amax.
    """
    if scheme.static and amax is None:
        raise ValueError("a static scale needs its amax")
    if _takes_kernel(x, scheme):
        return _by_kernel(x, scheme, amax)
    return by_torch(x, scheme, amax)


def rounding_error(x: Tensor, scheme: Scheme, amax: float | None = None) -> Tensor:
    """`fake_quantize` less `x`, float32."""
    if _takes_kernel(x, scheme):
        return _by_kernel(x, scheme, amax, error=True)
    return by_torch(x, scheme, amax).sub_(x)


def _takes_kernel(x: Tensor, scheme: Scheme) -> bool:
    plain = scheme.scale_format is None and x.dtype in (torch.float32, torch.bfloat16)
    alike = x.ndim == 2 or (x.ndim > 2 and scheme.tile.rows == 1) or scheme.static
    here = x.device.type == "cpu" and not torch.compiler.is_compiling()
    return here and plain and alike and x.numel() > 0


def _by_kernel(x: Tensor, scheme: Scheme, amax: float | None, *, error: bool = False) -> Tensor:
    """The compiled cast of all rows side by side."""
    matrix = x.reshape(-1, x.shape[-1])
    if scheme.tile == TENSOR and amax is not None:
        tile, scale = (1, matrix.shape[1]), float(scheme.format.scale(amax))
    else:
        rows, columns = scheme.tile
        tile, scale = (rows or len(matrix), columns or matrix.shape[1]), 0.0
    return cast(matrix, scheme.format, tile, scale=scale, error=error).view(x.shape)


def by_torch(x: Tensor, scheme: Scheme, amax: float | None = None) -> Tensor:
    """`fake_quantize` by torch operations, on any device: what the kernel is held to."""
    values = x.float()
    if scheme.tile == TENSOR and amax is not None:
        scale = _number(float(scheme.format.scale(amax)), values)
        return round_to(scheme.format, values / scale).mul_(scale)
    tiles = _tiles(values, scheme)
    scales = tiles.abs().amax(dim=(-3, -1), keepdim=True) / _number(scheme.format.max, values)
    if scheme.scale_format is not None:
        scales = _round_scales(scales, scheme.format, scheme.scale_format, amax)
    divisors = torch.where(scales > 0, scales, 1)  # a scale of 0 gives 0, whatever is divided
    return _untile(round_to(scheme.format, tiles / divisors).mul_(scales), values.shape)


def _round_scales(scales: Tensor, fmt: Format, held_in: Format, amax: float | None) -> Tensor:
    """NVFP4's scales of blocks: E4M3 under one float32 scale, amax / (6 · 448)."""
    largest = scales.amax(dim=(-4, -3, -2, -1), keepdim=True)
    if amax is None:
        outer = largest / _number(held_in.max, scales)
    else:
        outer = torch.full_like(largest, amax) / _number(fmt.max * held_in.max, scales)
    outer = outer.clamp(min=SMALLEST)
    return round_to(held_in, scales / outer).mul_(outer)


def _number(value: float, like: Tensor) -> Tensor:
    """A float32 scalar on the same device: CUDA divides by a Python number through its inverse,
    which is another last bit. Filled there: while a CUDA graph is recorded nothing can be copied.
    """
    return torch.full((), value, dtype=torch.float32, device=like.device)


def _tiles(values: Tensor, scheme: Scheme) -> Tensor:
    """[..., rows/h, h, columns/w, w], padded with zeros, which change no amax."""
    rows, columns = values.shape[-2:]
    height, width = (
        size if tile == ALL else min(tile, size)
        for tile, size in zip(scheme.tile, (rows, columns), strict=True)
    )
    down, right = -rows % height, -columns % width
    if down or right:
        values = torch.nn.functional.pad(values, (0, right, 0, down))
    tiles: Tensor = values.unflatten(-1, (-1, width)).unflatten(-3, (-1, height))
    return tiles


def _untile(tiles: Tensor, shape: torch.Size) -> Tensor:
    whole = tiles.flatten(-2).flatten(-3, -2)
    return whole[..., : shape[-2], : shape[-1]]
