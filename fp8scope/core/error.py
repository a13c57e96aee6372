"""What a per-tensor format and scale do to a tensor, from its magnitude histogram alone.

For bf16 and fp16 this equals quantizing the tensor itself: the counts exactly, the MSE to
float64 rounding. For fp32 the sub-points of a bin stand for its values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fp8scope.core.formats import Format, fake_quantize
from fp8scope.core.histogram import BODY_QUANTILE, Histogram


@dataclass(frozen=True)
class QuantError:
    """Error of one tensor under one scheme. Energies are sums of squares over elements.

    `body_*` count the non-zero values up to the .9 quantile of |x| alone: under a massive
    activation the whole-tensor SQNR stays at the rounding floor (31.5 dB for E4M3) or rises,
    while the body is flushed to zero.
    """

    elements: int
    saturated: float
    underflowed: float
    signal: float
    noise: float
    body_signal: float
    body_noise: float

    @property
    def saturation_rate(self) -> float:
        """Share of all elements that the format's max clamps, in [0, 1]."""
        return self.saturated / self.elements if self.elements else 0.0

    @property
    def underflow_rate(self) -> float:
        """Share of all elements that become zero without having been zero, in [0, 1]."""
        return self.underflowed / self.elements if self.elements else 0.0

    @property
    def mse(self) -> float:
        """Mean squared error per element, in the tensor's unit squared."""
        return self.noise / self.elements if self.elements else 0.0

    @property
    def sqnr_db(self) -> float:
        """Signal-to-quantization-noise ratio of the whole tensor, dB; inf without noise."""
        return decibel(self.signal, self.noise)

    @property
    def body_sqnr_db(self) -> float:
        """Signal-to-quantization-noise ratio of the body, dB; inf without noise."""
        return decibel(self.body_signal, self.body_noise)


def decibel(signal: float, noise: float) -> float:
    """10·log10(signal/noise); inf where there is no noise, -inf for noise without signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def quantization_error(histogram: Histogram, fmt: Format, scale: float | None = None) -> QuantError:
    """Error of quantizing per tensor to `fmt` with `scale` (default: amax / format max).

    Non-finite elements count as elements but carry no signal and no noise.
    """
    step = fmt.scale(histogram.amax) if scale is None else np.float32(scale)
    magnitudes, weights, bins = histogram.points()
    quantized = fake_quantize(magnitudes, step, fmt)
    exact = magnitudes.astype(np.float64)
    signal = weights * exact**2
    noise = weights * (exact - quantized.values.astype(np.float64)) ** 2
    body = bins <= histogram.quantile_bin(BODY_QUANTILE)
    return QuantError(
        elements=histogram.elements,
        saturated=float(weights[quantized.saturated].sum()),
        underflowed=float(weights[quantized.underflowed].sum()),
        signal=float(signal.sum()),
        noise=float(noise.sum()),
        body_signal=float(signal[body].sum()),
        body_noise=float(noise[body].sum()),
    )
