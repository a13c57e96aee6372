"""Quantize and multiply back in main memory, compiled by numba: one read, one write.

torch's casts through `float8_e4m3fn` take several passes, each slower than the matmul allows. The
bits are those of `fake_quant`'s torch operations, which serve devices and are the reference.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from fp8scope.core.formats import Format
from fp8scope.runtime.team import at, body, claim, compiled, run

LANE_ELEMENTS = 1 << 16
_SIZES = ("rows", "columns", "height", "width", "lanes")
_ARRAYS = ("x", "out")
CAST = np.dtype(
    [("next", "i8")]
    + [(name, "i8") for name in _SIZES + _ARRAYS]
    + [("drop", "i8"), ("normal", "f4"), ("magic", "f4"), ("max", "f4"), ("scale", "f4")]
    + [("error", "i8")]
)
_DOT_ARRAYS = ("a", "b", "c", "out")
DOT = np.dtype(
    [(name, "i8") for name in ("next", "rows", "columns", "lanes", "less", *_DOT_ARRAYS)]
)

DOT_DTYPES = (torch.bfloat16, torch.float32)

fast_sums = partial(njit, fastmath={"reassoc", "contract", "nsz"})


def cast(
    x: Tensor,
    fmt: Format,
    tile: tuple[int, int],
    *,
    scale: float = 0.0,
    error: bool = False,
) -> Tensor:
    """`x` [rows, columns] in bf16 or fp32 rounded to `fmt` and multiplied back, float32.

    tile: rows × columns that share a scale, amax / max of its own values; with `scale` that one
    serves all. error: the rounded value less x in its place.
    """
    rows, columns = x.shape
    height, width = (min(side, size) for side, size in zip(tile, (rows, columns), strict=True))
    out = torch.empty(rows, columns)
    x = x.contiguous()
    lanes = max(1, min(-(-rows // height), rows * columns // LANE_ELEMENTS))
    integer = fmt.mantissa_bits is None
    job = np.zeros((), CAST)
    for name, value in zip(_SIZES, (rows, columns, height, width, lanes), strict=True):
        job[name] = value
    for name, tensor in zip(_ARRAYS, (x, out), strict=True):
        job[name] = tensor.data_ptr()
    job["drop"] = 0 if fmt.mantissa_bits is None else 23 - fmt.mantissa_bits
    job["normal"] = np.inf if integer else fmt.smallest_normal
    job["magic"] = 1.5 * 2**23 * fmt.smallest_subnormal
    job["max"], job["scale"], job["error"] = fmt.max, scale, error
    run(_body("cast", x.dtype), job.reshape(1), lanes)
    return out


def row_dot(a: Tensor, b: Tensor, less: Tensor | None = None) -> Tensor:
    """Σ a·b of each row, or Σ a·(b - less), float32 [rows].

    a: float32 or bf16; b: float32; less: bf16 or float32, as `a`. All [rows, columns].
    """
    rows, columns = a.shape
    out = torch.empty(rows)
    a, b = a.contiguous(), b.contiguous()
    less = None if less is None else less.contiguous()
    lanes = max(1, min(rows, rows * columns // LANE_ELEMENTS))
    job = np.zeros((), DOT)
    job["rows"], job["columns"], job["lanes"] = rows, columns, lanes
    pointers = [a.data_ptr(), b.data_ptr(), 0 if less is None else less.data_ptr(), out.data_ptr()]
    for name, pointer in zip(_DOT_ARRAYS, pointers, strict=True):
        job[name] = pointer
    job["less"] = less is not None
    run(_body("dot", a.dtype), job.reshape(1), lanes)
    return out


@compiled
def _cast_lanes(address: int, dtype: Any) -> None:
    job = carray(at(address), (1,), CAST)[0]
    rows, columns = job.rows, job.columns
    x = carray(at(job.x), (rows, columns), dtype)
    out = carray(at(job.out), (rows, columns), np.float32)
    true = np.empty(columns, np.float32)
    tiles = (rows + job.height - 1) // job.height
    lane = claim(address)
    while lane < job.lanes:
        for tile in range(lane * tiles // job.lanes, (lane + 1) * tiles // job.lanes):
            start = tile * job.height
            stop = min(rows, start + job.height)
            for row in range(start, stop):
                _float(x[row], out[row])
            for left in range(0, columns, job.width):
                right = min(columns, left + job.width)
                scale = job.scale
                if scale == 0:
                    largest = np.float32(0)
                    for row in range(start, stop):
                        largest = max(largest, _amax(out[row][left:right]))
                    scale = largest / job.max
                for row in range(start, stop):
                    _round(out[row][left:right], scale, job.drop, job.normal, job.magic, job.max)
            if job.error:
                for row in range(start, stop):
                    _float(x[row], true)
                    for column in range(columns):
                        out[row, column] -= true[column]
        lane = claim(address)


@compiled
def _float(bits: Any, out: Any) -> None:
    """The values of one row's bits; bf16 is the upper half of fp32."""
    widen = np.uint32(32 - 8 * bits.itemsize)
    as_bits = out.view(np.uint32)
    for c in range(len(bits)):
        as_bits[c] = np.uint32(bits[c]) << widen


@compiled
def _amax(values: Any) -> Any:
    bits = values.view(np.uint32)
    largest = np.uint32(0)
    for c in range(len(bits)):
        largest = max(largest, bits[c] & np.uint32(0x7FFFFFFF))
    one = np.empty(1, np.uint32)
    one[0] = largest
    return one.view(np.float32)[0]


@compiled
def _round(values: Any, scale: Any, drop: Any, normal: Any, magic: Any, most: Any) -> None:
    """Round each value / scale to the format, ties to even, and multiply back.

    Above the smallest normal, by the bits that the mantissa drops; under it, and for integers, by
    adding a number so large that what is left of the mantissa is the grid.
    """
    bits = values.view(np.uint32)
    if scale == 0:
        for c in range(len(bits)):
            bits[c] &= np.uint32(0x80000000)
        return
    shift = np.uint32(drop)
    half = np.uint32(0) if drop == 0 else np.uint32((1 << (drop - 1)) - 1)
    mask = np.uint32(0xFFFFFFFF) << shift
    for c in range(len(values)):
        y = values[c] / scale
        y = min(max(y, -most), most)
        values[c] = y
    for c in range(len(values)):
        size = abs(values[c])
        sign = bits[c] & np.uint32(0x80000000)
        rounded = (bits[c] + half + ((bits[c] >> shift) & np.uint32(1))) & mask
        if size < normal:
            values[c] = (size + magic) - magic
            bits[c] |= sign  # also of zero
        else:
            bits[c] = rounded
    for c in range(len(values)):
        values[c] *= scale


@compiled
def _dot_lanes(address: int, dtype: Any) -> None:
    job = carray(at(address), (1,), DOT)[0]
    rows, columns = job.rows, job.columns
    a = carray(at(job.a), (rows, columns), dtype)
    b = carray(at(job.b), (rows, columns), np.float32)
    less = carray(at(job.c), (rows if job.less else 1, columns), dtype)
    out = carray(at(job.out), (rows,), np.float32)
    first, second = np.empty(columns, np.float32), np.empty(columns, np.float32)
    lane = claim(address)
    while lane < job.lanes:
        for row in range(lane * rows // job.lanes, (lane + 1) * rows // job.lanes):
            _float(a[row], first)
            if job.less:
                _float(less[row], second)
                out[row] = _dot_less(first, b[row], second)
            else:
                out[row] = _dot(first, b[row])
        lane = claim(address)


def _dot(a: Any, b: Any) -> Any:
    total = np.float32(0)
    for c in range(len(a)):
        total += a[c] * b[c]
    return total


def _dot_less(a: Any, b: Any, less: Any) -> Any:
    total = np.float32(0)
    for c in range(len(a)):
        total += a[c] * (b[c] - less[c])
    return total


_dot = fast_sums(_dot)
_dot_less = fast_sums(_dot_less)


def _cast_bf16(job: int) -> None:
    _cast_lanes(job, np.uint16)


def _cast_fp32(job: int) -> None:
    _cast_lanes(job, np.uint32)


def _dot_bf16(job: int) -> None:
    _dot_lanes(job, np.uint16)


def _dot_fp32(job: int) -> None:
    _dot_lanes(job, np.uint32)


_BODIES = {
    ("cast", torch.bfloat16): _cast_bf16,
    ("cast", torch.float32): _cast_fp32,
    ("dot", torch.bfloat16): _dot_bf16,
    ("dot", torch.float32): _dot_fp32,
}


@cache
def _body(name: str, dtype: torch.dtype) -> Any:
    return body(_BODIES[name, dtype])
