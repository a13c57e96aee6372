"""Magnitude bit patterns: the 15 bits below the sign, as bins of a lossless histogram.

A bf16 or fp16 magnitude has 15 bits, so counting the 32768 patterns of |x| loses nothing.
fp32 is truncated to its upper 16 bits (those of bf16): a bin is then an interval of relative
width 2^-7, evaluated at 16 sub-points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fp8scope.errors import BadInput

BINS = 32768


@dataclass(frozen=True)
class Encoding:
    """How a dtype's magnitudes map to bins.

    `mantissa_bits` counts those left in the 15-bit pattern; patterns from `first_nonfinite`
    on are inf and NaN; `exact` says whether a bin is one value (bf16, fp16) or an interval.
    """

    name: str
    mantissa_bits: int
    first_nonfinite: int
    exact: bool

    @property
    def binades(self) -> int:
        """Number of binades (one exponent each): 256 for bf16 and fp32, 32 for fp16."""
        return BINS >> self.mantissa_bits

    def values(self) -> NDArray[np.float32]:
        """Magnitude at the lower edge of every finite bin, [first_nonfinite] float32."""
        return _bin_values(self.name)[: self.first_nonfinite]

    def bins(self, magnitudes: NDArray[np.float32]) -> NDArray[np.uint16]:
        """The bin of each magnitude, which is one that this encoding can hold."""
        if self.name == FP16.name:
            return magnitudes.astype(np.float16).view(np.uint16)
        return (magnitudes.view(np.uint32) >> 16).astype(np.uint16)

    def sub_points(self, bins: NDArray[np.int64]) -> NDArray[np.float32]:
        """Magnitudes that stand for each bin: [n, 1] if exact, else [n, 16] across it."""
        low = self.values()[bins]
        if self.exact:
            return low[:, None]
        high = _bin_values(self.name)[bins + 1]
        at = (np.arange(16, dtype=np.float32) + np.float32(0.5)) / np.float32(16)
        return (low[:, None] + (high - low)[:, None] * at).astype(np.float32)


BF16 = Encoding("bfloat16", mantissa_bits=7, first_nonfinite=0x7F80, exact=True)
FP16 = Encoding("float16", mantissa_bits=10, first_nonfinite=0x7C00, exact=True)
FP32 = Encoding("float32", mantissa_bits=7, first_nonfinite=0x7F80, exact=False)
ENCODINGS = {encoding.name: encoding for encoding in (BF16, FP16, FP32)}


def encoding(dtype: str) -> Encoding:
    """The encoding of a dtype name (`bfloat16`). Raises BadInput for any other dtype."""
    try:
        return ENCODINGS[dtype]
    except KeyError:
        raise BadInput(
            f"tensors of dtype {dtype} cannot be recorded",
            f"load the model as one of {', '.join(ENCODINGS)} (--dtype)",
        ) from None


@cache
def _bin_values(name: str) -> NDArray[np.float32]:
    patterns = np.arange(BINS, dtype=np.uint16)
    if name == FP16.name:
        values = patterns.view(np.float16).astype(np.float32)
    else:
        values = (patterns.astype(np.uint32) << 16).view(np.float32)
    # the bin after the last finite one bounds it from above
    edge = ENCODINGS[name].first_nonfinite
    values[edge] = np.float32(65536.0) if name == FP16.name else np.finfo(np.float32).max
    values.setflags(write=False)
    return values
