"""What smoothing makes of a tensor: exactly, as far as its channels tell, and estimated.

A profile keeps of each channel its largest value and its sum of squares, and the histogram of all
channels together. Under factors s a channel's amax and rms become amax / s and rms / s, exactly (of
the powers of two that fp8scope folds). How its values lie between those two is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.folds import fold_into
from fp8scope.analyze.scales import Scales
from fp8scope.core.histogram import Histogram
from fp8scope.core.magnitude import BF16, BINS
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import KVLayer
from fp8scope.profile.record import Profile

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

PER_OCTAVE = 32
LOW, HIGH = -20, 4  # octaves around σ in which a Gaussian's magnitudes are told apart
TINY = 2.0**-149  # the smallest float32
SHARES = 2**40  # an estimate is of shares: integers as fine as this


@dataclass(frozen=True)
class Channels:
    """Channels of one tensor, of stacked experts those of each: any shape, the same of all three.

    amax, energy (sum of squares) and number of values, zeros included.
    """

    amax: Float32
    energy: Float64
    values: Float64

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return float(self.amax.max(initial=0))

    @property
    def rms(self) -> float:
        """Root mean square of all values."""
        return float(np.sqrt(self.energy.sum() / max(self.values.sum(), 1)))

    def divided(self, factors: Float32) -> Channels:
        """Of x / s, with one factor for each channel."""
        energy = self.energy / np.square(factors, dtype=np.float64)
        return Channels(self.amax / factors, energy, self.values)

    def share_reaching(self, level: float) -> float:
        """Share of all values that are in channels whose amax is over `level`: no more values than
        these can be over it.
        """
        return float(self.values[self.amax > level].sum() / max(self.values.sum(), 1))

    def gaussian(self, zero_share: float) -> Histogram:
        """The histogram, in shares, if every channel were Gaussian beside its zeros.

        `zero_share` of all values are zero, and stay so under any factors: those of the channels
        that are nothing but zero, the others spread evenly. What would lie above the largest
        magnitude, which is known, counts as that.
        """
        live, total = self.amax > 0, max(float(self.values.sum()), 1.0)
        counts = np.zeros(BINS, np.int64)
        nonzero = min(1 - zero_share, float(self.values[live].sum()) / total)
        if nonzero > 0:
            values = self.values[live]
            sigma = np.sqrt(self.energy[live] / (values * (nonzero * total / values.sum())))
            shares = _mixture(np.log2(np.maximum(sigma, TINY)), values / values.sum())
            counts[: BF16.first_nonfinite] = np.rint(shares * nonzero * SHARES).astype(np.int64)
        zeros = round((1 - nonzero) * SHARES)
        counts[0] += zeros
        return Histogram(BF16, counts, zeros, self.largest)


def _mixture(logs: Float64, weights: Float64) -> Float64:
    """Share of each finite bin of bf16 in a mixture of Gaussians of these log2 σ, [bins].

    log|x| = log σ + log|z|: the shares of log σ, convolved with those of a standard normal's.
    """
    cells = np.rint(np.maximum(logs, logs.max() - 60) * PER_OCTAVE).astype(np.int64)
    first = int(cells.min())
    mixed = np.convolve(np.bincount(cells - first, weights), _standard_normal())
    start = first + LOW * PER_OCTAVE  # cell i reaches from (start + i - ½) to (start + i + ½)
    edges = (start + np.arange(len(mixed) + 1) - 0.5) / PER_OCTAVE
    below = np.concatenate([[0.0], np.cumsum(mixed)])
    values = BF16.values().astype(np.float64)
    between = np.log2((values[1:-1] + values[2:]) / 2)  # bin 0 is zero
    found = np.interp(between, edges, below, left=0.0, right=float(below[-1]))
    return np.diff(np.concatenate([[0.0, 0.0], found, [float(below[-1])]]))


@cache
def _standard_normal() -> Float64:
    """Share of |z| in each cell of log2|z|; the first holds all that lies below it."""
    edges = (np.arange(LOW * PER_OCTAVE, HIGH * PER_OCTAVE + 2) - 0.5) / PER_OCTAVE
    below = np.array([math.erf(2.0**edge / math.sqrt(2)) for edge in edges])
    below[0] = 0.0
    shares = np.diff(below)
    shares.setflags(write=False)
    return shares


@dataclass(frozen=True)
class Smoothable:
    """A tensor whose channels smoothing divides (an input, cached values) or multiplies (a
    weight's columns): its channels, and the divisors by α.
    """

    channels: Channels
    divisors: Callable[[float], Float32]

    def at(self, alpha: float | None) -> Channels:
        """The channels under the α, or as they are."""
        return self.channels if alpha is None else self.channels.divided(self.divisors(alpha))


def smoothable(profile: Profile, scales: Scales, site: Site) -> Smoothable | None:
    """What smoothing does to a site of the profile; None where nothing folds into it."""
    for layer in profile.structure.kv_layers:
        if site.module == layer.attention and site.role in (Role.K, Role.V):
            return _cached(profile, scales, layer, site)
    if site.role not in (Role.INPUT, Role.WEIGHT):
        return None
    fold = fold_into(profile.structure, site)
    read = fold and all(profile.owner(Site(n, Role.INPUT)) in profile.sites for n in fold.consumers)
    if fold is None or not read:
        return None
    each = scales.factors(fold, 0.5).ndim == 2  # experts that have factors of their own
    weight = site.role is Role.WEIGHT

    def divisors(alpha: float) -> Float32:
        factors = fold.on_columns(scales.factors(fold, alpha))
        return np.reciprocal(factors) if weight else factors

    channels = _of_weight(profile, site.module, each) if weight else _of_input(profile, site, each)
    return Smoothable(channels, divisors)


def _cached(profile: Profile, scales: Scales, layer: KVLayer, site: Site) -> Smoothable | None:
    if scales.cache_factors(layer, site.role, 0.5) is None:
        return None

    def divisors(alpha: float) -> Float32:
        factors = scales.cache_factors(layer, site.role, alpha)
        if factors is None:
            raise ValueError(f"{site} cannot be divided")
        return factors

    return Smoothable(_of_input(profile, site, each=False), divisors)


def _of_input(profile: Profile, site: Site, each: bool) -> Channels:
    if each:
        record = profile.experts[site]
        tokens = record.tokens.sum(axis=0).astype(np.float64)[:, None]
        energy = record.channel_sum_squares.astype(np.float64)
        return Channels(record.channel_amax, energy, np.broadcast_to(tokens, energy.shape))
    whole = profile.sites[site]
    amax, energy = whole.channel_amax.max(axis=0), whole.channel_sum_squares
    return Channels(amax, energy, np.full(len(amax), whole.elements.sum() / len(amax)))


def _of_weight(profile: Profile, module: str, each: bool) -> Channels:
    whole = profile.weights[module]
    columns = len(whole.column_amax)
    rows = float(whole.elements[0]) / columns
    if not each:
        return Channels(whole.column_amax, whole.column_sum_squares, np.full(columns, rows))
    record = profile.expert_weights[module]
    energy = record.column_sum_squares.astype(np.float64)
    values = np.full(energy.shape, rows / len(energy))
    return Channels(record.column_amax, energy, values)
