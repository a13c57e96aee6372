"""What a static scale of E4M3 clips: how much, how often and how far.

A static scale is amax / 448 of a calibration. Under it what lies above 464 × scale is clamped to
448 × scale (up to 464, rounding does that anyway). Which share of the values that is comes from the
histograms and is exact for bf16 and fp16; which sequences are hit comes from the amax of each,
and is exact for every dtype. A massive activation is one value in thousands, and clipping it may
ruin a whole answer: look at the share of sequences first, then at how far the largest is clipped.
A sequence is clipped *far* where its largest value loses more than 20% (`LOW_HEADROOM`): two halves
of one text clip each other by a little all the time, but hardly ever far.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.thresholds import LOW_HEADROOM
from fp8scope.core.error import QuantError, quantization_error
from fp8scope.core.formats import E4M3, fake_quantize
from fp8scope.core.magnitude import Encoding
from fp8scope.profile.record import Profile, SiteRecord

RESAMPLES, SEED = 1000, 0
QUANTILES = (0.025, 0.975)
Z = 1.959964  # of the normal, for the same 95%

Interval = tuple[float, float]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Saturation:
    """One site's values, of one tag or of all, under one static scale.

    `clip` is the largest value / (448 × scale): nothing is clipped up to 464/448, and what is
    clipped loses at most the factor `clip`. `rate_interval` holds the share of saturated
    values with 95%: percentile bootstrap over the sequences (1000 resamples, fixed seed), so it
    is what other draws of as many such sequences would give. It knows only what was seen: where
    nothing saturates it is [0, 0], and `share_interval` says what that is worth. Sequences cut
    from one document are alike, so with few documents both are too narrow.
    """

    scale: float
    clip: float
    error: QuantError
    rate_interval: Interval
    sequences: int
    saturated_sequences: int
    far_sequences: int

    @property
    def rate(self) -> float:
        """Share of all values that are clamped, in [0, 1]."""
        return self.error.saturation_rate

    @property
    def share(self) -> float:
        """Share of the sequences in which anything is clamped, in [0, 1]."""
        return self.saturated_sequences / self.sequences if self.sequences else 0.0

    @property
    def share_interval(self) -> Interval:
        """95% interval of `share`: the score interval of Wilson (1927), for none of n too."""
        return wilson(self.saturated_sequences, self.sequences)

    @property
    def far_share(self) -> float:
        """Share of the sequences whose largest value loses more than 20%, in [0, 1]."""
        return self.far_sequences / self.sequences if self.sequences else 0.0

    @property
    def far_interval(self) -> Interval:
        """95% interval of `far_share`, as `share_interval`."""
        return wilson(self.far_sequences, self.sequences)

    @property
    def severity(self) -> tuple[float, float, float]:
        """Smaller is worse: sequences clipped far, weighted by the loss; then clip, then rate.

        The sequences are those of the lower end of the interval, the loss is the share of its
        energy that the largest value loses, (1 - 1 / clip)².
        """
        clip = max(1.0, self.clip) if self.saturated_sequences else 1.0
        return -self.far_interval[0] * (1 - 1 / clip) ** 2, -clip, -self.rate


def saturation(
    profile: Profile, record: SiteRecord, scale: float, tag: int | None = None
) -> Saturation:
    """What `scale` does to a record of this profile: to one tag (its number), or to all text."""
    step, histogram = np.float32(scale), record.magnitudes(tag)
    error = quantization_error(histogram, E4M3, scale)
    elements = record.sequence_binades.sum(axis=1, dtype=np.int64)
    mine = elements > 0  # not those that an unfinished scan has yet to see
    if tag is not None:
        mine &= profile.samples["tag"] == tag
    amax = record.sequence_amax[mine]
    hit = fake_quantize(amax, step, E4M3).saturated
    saturated = saturated_by_sequence(
        record.sequence_binades[mine], hit, record.encoding, step, error.saturated
    )
    return Saturation(
        scale=scale,
        clip=histogram.amax / (E4M3.max * scale),
        error=error,
        rate_interval=_bootstrap(saturated, elements[mine].astype(np.float64)),
        sequences=int(mine.sum()),
        saturated_sequences=int(hit.sum()),
        far_sequences=int((amax * LOW_HEADROOM > E4M3.max * scale).sum()),
    )


def saturated_by_sequence(
    binades: NDArray[np.uint32],
    hit: NDArray[np.bool_],
    encoding: Encoding,
    scale: np.float32,
    total: float,
) -> Float64:
    """How many values of each sequence saturate, [sequences]; they sum to `total`.

    Exact for the binades that lie wholly above the limit. Those that saturate in the limit's own
    binade are known over all sequences, and shared out among the sequences that are `hit`, in
    proportion to what each has in that binade.
    """
    low = encoding.values()[:: 1 << encoding.mantissa_bits]
    high = np.nextafter(np.append(low[1:], np.finfo(np.float32).max), np.float32(0))
    above = fake_quantize(low, scale, E4M3).saturated
    partly = fake_quantize(high, scale, E4M3).saturated & ~above
    counts = binades[:, : len(low)].astype(np.float64)
    saturated: Float64 = counts[:, above].sum(axis=1)
    own = np.where(hit, counts[:, partly].sum(axis=1), 0.0)
    if own.any():
        saturated += own * (max(0.0, total - saturated.sum()) / own.sum())
    return saturated


def _bootstrap(saturated: Float64, elements: Float64) -> Interval:
    """95% interval of Σ saturated / Σ elements over resampled sequences (each [sequences])."""
    if not saturated.any():
        return 0.0, 0.0
    drawn = _draws(len(elements))
    rates = (drawn @ saturated.astype(np.float32)) / (drawn @ elements.astype(np.float32))
    low, high = np.quantile(rates, QUANTILES)
    return float(low), float(high)


@lru_cache(maxsize=2)
def _draws(n: int) -> NDArray[np.float32]:
    """How often each of n sequences is in each resample, [resamples, n]."""
    draws = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return draws.astype(np.float32)


def wilson(hits: int, n: int) -> Interval:
    """Score interval of a share (Wilson 1927): all p within z standard errors of p itself."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = hits / n, Z * Z / n
    middle, half = share + z2 / 2, Z * sqrt((share * (1 - share) + z2 / 4) / n)
    low = 0.0 if hits == 0 else (middle - half) / (1 + z2)
    return low, 1.0 if hits == n else (middle + half) / (1 + z2)
