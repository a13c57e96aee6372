"""Number formats that a GEMM can read, and their rounding, bit for bit, in numpy.

| format | mantissa | max   | smallest normal | smallest subnormal | overflow is clamped to  |
|--------|----------|-------|-----------------|--------------------|-------------------------|
| E4M3   | 3        | 448   | 2^-6            | 2^-9               | 448 (torch: NaN or 448)  |
| E5M2   | 2        | 57344 | 2^-14           | 2^-16              | 57344 (torch: inf)       |
| INT8   | –        | 127   | 1               | 1                  | 127 (symmetric)          |
| INT4   | –        | 7     | 1               | 1                  | 7 (symmetric)            |
| E2M1   | 1        | 6     | 1               | 0.5                | 6                        |

E4M3 is e4m3fn of the OCP 8-bit floating point specification (OFP8, rev. 1.0), the one that
NVIDIA hardware has; tables that give ±240 describe the fnuz variant.

A scale is always the *dequantization* scale: `scale = amax / format.max`, `x ≈ q · scale`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Format:
    """A number format. `mantissa_bits` is None for an integer grid of step 1."""

    name: str
    max: float
    smallest_normal: float
    mantissa_bits: int | None

    @property
    def smallest_subnormal(self) -> float:
        """Smallest positive value on the grid."""
        if self.mantissa_bits is None:
            return self.smallest_normal
        return float(self.smallest_normal / 2**self.mantissa_bits)

    @property
    def saturates_above(self) -> float:
        """Above it magnitudes are clamped, below it none is (E4M3: 464); it ties, to the even."""
        if self.mantissa_bits is None:
            return self.max + 0.5
        _, exponent = np.frexp(self.max)
        return self.max + float(2.0 ** (int(exponent) - 2 - self.mantissa_bits))

    def round(self, x: Float32) -> Float32:
        """Nearest grid value, ties to even, as if the exponent had no upper end.

        x: any shape, float32, finite. Exact: every step is a power of two. What comes out
        above `max` saturates when cast.
        """
        if self.mantissa_bits is None:
            return np.rint(x)
        _, exponent = np.frexp(x)
        lowest = int(np.frexp(np.float32(self.smallest_normal))[1])
        step = np.maximum(exponent, lowest) - (self.mantissa_bits + 1)
        rounded: Float32 = np.ldexp(np.rint(np.ldexp(x, -step)), step)
        return rounded

    def scale(self, amax: float) -> np.float32:
        """Per-tensor scale amax / max in float32, never zero; 1 for an all-zero tensor."""
        if amax <= 0:
            return np.float32(1)
        smallest = np.finfo(np.float32).smallest_subnormal
        return np.float32(max(np.float32(amax) / np.float32(self.max), smallest))


E4M3 = Format("e4m3", max=448.0, smallest_normal=2.0**-6, mantissa_bits=3)
E5M2 = Format("e5m2", max=57344.0, smallest_normal=2.0**-14, mantissa_bits=2)
INT8 = Format("int8", max=127.0, smallest_normal=1.0, mantissa_bits=None)
INT4 = Format("int4", max=7.0, smallest_normal=1.0, mantissa_bits=None)
E2M1 = Format("e2m1", max=6.0, smallest_normal=1.0, mantissa_bits=1)


@dataclass(frozen=True)
class Quantized:
    """Fake-quantized values with what happened to each. Arrays have the input's shape."""

    values: Float32
    saturated: NDArray[np.bool_]
    underflowed: NDArray[np.bool_]


def fake_quantize(x: Float32, scale: Float32 | np.float32, fmt: Format) -> Quantized:
    """Divide by the scale in float32, round, clamp to the format's range, multiply back.

    x: any shape, float32, finite. scale: a scalar, or an array that broadcasts against x.
    Saturated: the rounded value lies beyond `max`, so that clamping adds error (a value that
    merely rounds down to `max` is not saturated). Underflowed: not zero before, zero after.
    """
    with np.errstate(over="ignore"):  # a far too small scale gives inf, which saturates
        rounded = fmt.round(x / scale)
    saturated = np.abs(rounded) > np.float32(fmt.max)
    clamped = np.clip(rounded, np.float32(-fmt.max), np.float32(fmt.max))
    underflowed = (clamped == 0) & (x != 0)
    return Quantized(clamped * scale, saturated, underflowed)
