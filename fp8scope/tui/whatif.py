"""What if the scale, the format or α were others: one site, from its histogram, at once.

Without smoothing every number is exact (for fp32: as its histogram is). Under smoothing the amax,
and with it the scale, and the rms are exact; the share that saturates is bounded from above;
underflow and SQNR are estimated (`channels.Channels.gaussian`), beside what the same estimate gives
without smoothing, where the truth is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fp8scope.analyze.scales import Scales
from fp8scope.core.error import QuantError, quantization_error
from fp8scope.core.formats import E2M1, E4M3, E5M2, INT4, INT8, Format
from fp8scope.core.histogram import Histogram
from fp8scope.core.sites import Role, Site
from fp8scope.profile.record import Profile
from fp8scope.tui.channels import Channels, Smoothable, smoothable

FORMATS = (E4M3, E5M2, INT8, INT4, E2M1)
ALPHAS = (None, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
EIGHTHS = 8  # steps of the scale in an octave
FARTHEST = 24 * EIGHTHS


@dataclass(frozen=True)
class Trial:
    """One scale per tensor of `format`: `eighths` of an octave above amax / max, after smoothing at
    `alpha` (None: none).
    """

    format: Format = E4M3
    eighths: int = 0
    alpha: float | None = None

    def moved(self, eighths: int) -> Trial:
        """With a scale larger by so many eighths of an octave, within 24 octaves."""
        return replace(self, eighths=max(-FARTHEST, min(FARTHEST, self.eighths + eighths)))

    def next_format(self) -> Trial:
        """The same in the next format, the first after the last."""
        return replace(self, format=FORMATS[(FORMATS.index(self.format) + 1) % len(FORMATS)])

    def next_alpha(self, steps: int) -> Trial:
        """With α so many steps up or down; no further than the ends."""
        at = ALPHAS.index(self.alpha) + steps
        return replace(self, alpha=ALPHAS[max(0, min(len(ALPHAS) - 1, at))])


@dataclass(frozen=True)
class Outcome:
    """What a trial makes of a site. `amax`, `scale` and `rms` (of all values) are exact.

    Not `exact`: `histogram` (in shares, see `elements`) and with it the underflow rate and both
    SQNR of `error` are estimates, and `saturated` is an upper bound; `doubt` is the same estimate
    without smoothing, to be held against what that is.
    """

    trial: Trial
    amax: float
    rms: float
    scale: float
    histogram: Histogram
    elements: int
    error: QuantError
    saturated: float
    doubt: QuantError | None = None

    @property
    def exact(self) -> bool:
        """Whether nothing is estimated."""
        return self.doubt is None


def scale_of(trial: Trial, amax: float) -> float:
    """The dequantization scale of a trial, a positive float32."""
    scale = float(trial.format.scale(amax)) * 2 ** (trial.eighths / EIGHTHS)
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    return float(np.float32(min(max(scale, smallest), float(np.finfo(np.float32).max))))


@dataclass(frozen=True)
class WhatIf:
    """One site, ready to be tried: nothing is read from the profile any more."""

    site: Site
    histogram: Histogram
    smooth: Smoothable | None

    @property
    def zero_share(self) -> float:
        """Share of the values that are zero, and stay so."""
        return self.histogram.zeros / max(self.histogram.elements, 1)

    @cached_property
    def current(self) -> Outcome:
        """E4M3 at amax / 448, as `analyze` has it."""
        return self._measured(Trial())

    @cached_property
    def _unsmoothed_guess(self) -> Histogram:
        channels = self.smooth.channels if self.smooth else None
        return channels.gaussian(self.zero_share) if channels else self.histogram

    @cached_property
    def _guesses(self) -> dict[float, tuple[Channels, Histogram]]:
        return {}

    def _smoothed_to(self, alpha: float, smooth: Smoothable) -> tuple[Channels, Histogram]:
        """The channels under an α and their estimated histogram: kept, for a scale is moved often,
        and of the experts of a layer there are a million channels.
        """
        if alpha not in self._guesses:
            channels = smooth.at(alpha)
            self._guesses[alpha] = channels, channels.gaussian(self.zero_share)
        return self._guesses[alpha]

    def outcome(self, trial: Trial) -> Outcome:
        """What the trial makes of the site. Where nothing folds, α changes nothing."""
        if trial.alpha is None or self.smooth is None:
            return self._measured(replace(trial, alpha=None))
        return self._smoothed(trial, self.smooth)

    def _measured(self, trial: Trial) -> Outcome:
        whole = self.histogram
        scale = scale_of(trial, whole.amax)
        error = quantization_error(whole, trial.format, scale)
        finite = max(whole.elements - whole.nonfinite, 1)
        return Outcome(
            trial=trial,
            amax=whole.amax,
            rms=float(np.sqrt(whole.sum_squares() / finite)),
            scale=scale,
            histogram=whole,
            elements=whole.elements,
            error=error,
            saturated=error.saturation_rate,
        )

    def _smoothed(self, trial: Trial, smooth: Smoothable) -> Outcome:
        channels, guess = self._smoothed_to(trial.alpha or 0.0, smooth)
        scale = scale_of(trial, channels.largest)
        plain = scale_of(trial, smooth.channels.largest)
        return Outcome(
            trial=trial,
            amax=channels.largest,
            rms=channels.rms,
            scale=scale,
            histogram=guess,
            elements=self.histogram.elements,
            error=quantization_error(guess, trial.format, scale),
            saturated=channels.share_reaching(trial.format.saturates_above * scale),
            doubt=quantization_error(self._unsmoothed_guess, trial.format, plain),
        )


def what_if(profile: Profile, scales: Scales, site: Site) -> WhatIf:
    """Read what it takes. Raises KeyError for a site that the profile does not hold, DamagedProfile
    for one that cannot be read.
    """
    record = profile.weights[site.module] if site.role is Role.WEIGHT else profile.sites[site]
    return WhatIf(site, record.magnitudes(), smoothable(profile, scales, site))
