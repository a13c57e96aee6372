"""What is counted of a tensor's values, a chunk of bytes at a time.

Codes of E4M3 without their sign: 0x7f is NaN, 0x7e is 448, 0x7d is 416. Other floats are looked at
as integers too, so that nothing is converted: above the bits of infinity lies NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAN, TOP, NEXT = 0x7F, 0x7E, 0x7D

# the integer that has the width, the bits without the sign, those of infinity
_FLOATS: dict[str, tuple[type[np.unsignedinteger[Any]], int, int]] = {
    "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F16": (np.uint16, 0x7FFF, 0x7C00),
    "F32": (np.uint32, 0x7FFF_FFFF, 0x7F80_0000),
    "F64": (np.uint64, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F8_E5M2": (np.uint8, 0x7F, 0x7C),
}


@dataclass
class Counts:
    """Of one tensor, or of what was read of it. `largest` is the highest code of FP8 without its
    sign, NaN left out; elsewhere 1 where anything is not zero.
    """

    values: int = 0
    nan: int = 0
    inf: int = 0
    top: int = 0
    next: int = 0
    largest: int = 0


@dataclass
class ScaleValues:
    """Of one tensor of scales; `lowest` and `highest` are over those that are finite."""

    values: int = 0
    nan: int = 0
    inf: int = 0
    zero: int = 0
    negative: int = 0
    ones: int = 0
    lowest: float = math.inf
    highest: float = -math.inf

    @property
    def single(self) -> float | None:
        """The one value, None where there are several or it is not finite."""
        return self.highest if self.values == 1 and self.highest > -math.inf else None


class CodeCounter:
    """Counts codes of E4M3 in chunks of at most `size` bytes, without a copy of them."""

    def __init__(self, size: int) -> None:
        self._bare = np.empty(size, np.uint8)
        self._mask = np.empty(size, np.bool_)

    def add(self, count: Counts, chunk: NDArray[np.uint8]) -> None:
        """Add those of `chunk` to `count`."""
        bare = np.bitwise_and(chunk, 0x7F, out=self._bare[: len(chunk)])
        count.values += len(chunk)
        highest = int(bare.max())
        if highest < NEXT:
            count.largest = max(count.largest, highest)
            return
        mask = np.greater_equal(bare, NEXT, out=self._mask[: len(chunk)])
        nexts, tops, nans = np.bincount(bare[mask] - NEXT, minlength=3).tolist()
        count.next, count.top, count.nan = count.next + nexts, count.top + tops, count.nan + nans
        if nans and not tops:
            highest = int(bare[bare != NAN].max(initial=0))
        count.largest = max(count.largest, min(highest, TOP))


def count_floats(count: Counts, chunk: NDArray[np.uint8], dtype: str) -> None:
    """Add what `chunk` holds to `count`; nothing for a dtype that is no float."""
    if dtype not in _FLOATS:
        return
    integer, magnitude, infinity = _FLOATS[dtype]
    bits = chunk.view(integer) & integer(magnitude)
    count.values += len(bits)
    highest = int(bits.max())
    count.largest = max(count.largest, min(highest, 1))
    if highest >= infinity:
        infinite = int(np.count_nonzero(bits == infinity))
        count.inf += infinite
        count.nan += int(np.count_nonzero(bits >= infinity)) - infinite


def count_scales(scale: ScaleValues, chunk: NDArray[np.uint8], dtype: str) -> None:
    """Add the scales in `chunk` to `scale`; nothing for a dtype that is no float."""
    with np.errstate(invalid="ignore"):  # a NaN that signals
        values = _as_floats(chunk, dtype)
    if values is None:
        return
    if len(values) == 1:  # as most are: numpy takes its time over each
        _count_one(scale, float(values[0]))
        return
    finite = values[np.isfinite(values)]
    scale.values += len(values)
    scale.nan += int(np.count_nonzero(np.isnan(values)))
    scale.inf += int(np.count_nonzero(np.isinf(values)))
    scale.zero += int(np.count_nonzero(finite == 0))
    scale.negative += int(np.count_nonzero(finite < 0))
    scale.ones += int(np.count_nonzero(finite == 1))
    if len(finite):
        scale.lowest = min(scale.lowest, float(finite.min()))
        scale.highest = max(scale.highest, float(finite.max()))


def _count_one(scale: ScaleValues, value: float) -> None:
    scale.values += 1
    scale.nan += math.isnan(value)
    scale.inf += math.isinf(value)
    if math.isfinite(value):
        scale.zero += value == 0
        scale.negative += value < 0
        scale.ones += value == 1
        scale.lowest, scale.highest = min(scale.lowest, value), max(scale.highest, value)


def _as_floats(chunk: NDArray[np.uint8], dtype: str) -> NDArray[np.float64] | None:
    """The values of a chunk; None for a dtype that is no float."""
    if dtype == "F32":
        return chunk.view(np.float32).astype(np.float64)
    if dtype == "F16":
        return chunk.view(np.float16).astype(np.float64)
    if dtype == "F64":
        return chunk.view(np.float64)
    if dtype == "BF16":
        widened = chunk.view(np.uint16).astype(np.uint32) << np.uint32(16)
        return widened.view(np.float32).astype(np.float64)
    if dtype == "F8_E8M0":
        powers = np.ldexp(1.0, chunk.astype(np.int32) - 127)
        return np.where(chunk == 0xFF, np.nan, powers)
    return None


def code_value(code: int) -> float:
    """What a code of E4M3 without its sign stands for."""
    exponent, mantissa = code >> 3, code & 7
    return math.ldexp(mantissa, -9) if exponent == 0 else math.ldexp(8 + mantissa, exponent - 10)
