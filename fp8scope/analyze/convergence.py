"""Has the amax of each site settled over the calibration, and how much more text would it take.

Sequences of one tag are exchangeable: nothing but chance says which of them is in the calibration.
From that alone, without any assumption on how the values are distributed:

- The amax expected of k of the n sequences seen is a mean over all subsets, and has a closed form:
  with x_(1) ≤ … ≤ x_(n), the largest of a random subset is x_(j) in C(j-1, k-1) of the C(n, k)
  subsets, so E_k = Σ_j x_(j) C(j-1, k-1) / C(n, k).
- A further sequence exceeds the n seen with a chance of at most 1 / (n + 1), and any of N further
  ones with at most N / (n + N): each of the n + N is as likely to hold the largest value.
- Had a random half of the sequences been the calibration, the other half would have been clipped
  in a share of all splits that can be counted: where the half holds none of the m sequences that
  reach the amax within what E4M3 rounds away, C(n-m, h) / C(n, h) with h = n // 2.

How it goes on beyond n is not known but extrapolated: E_k grows by a fixed step with every doubling
of k where the tail is exponential (Gumbel's domain: Gaussian, Laplace, …), and the mean step of the
last three doublings predicted real models better than steps that grow or shrink. A heavier tail
has steps that grow; it mostly shows as one sequence that stands alone. What happens in fewer than
3 / n of all sequences may be missing altogether (with 95%), and no figure here knows of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.headroom import cast_sites
from fp8scope.analyze.thresholds import LOW_HEADROOM, NO_HEADROOM
from fp8scope.core.sites import Site
from fp8scope.profile.record import Profile

FEWEST = 8
"""Sequences of a tag under which nothing is said: the step is the mean of three doublings."""
CLIPS_NOTHING = 1 / NO_HEADROOM
"""Growth of amax that a static scale of E4M3 rounds away: 464/448."""
HARMS = 1 / LOW_HEADROOM
"""Growth from which on the largest value is clipped by more than 20%."""


class State(StrEnum):
    """What twice the text would do to a static scale.

    Settled: clip nothing. Growing: clip the largest value by up to 20%. Not settled: by more, or
    one sequence alone stands out by that much. Unknown: a tag has under 8 sequences.
    """

    SETTLED = "settled"
    GROWING = "growing"
    UNSETTLED = "not settled"
    UNKNOWN = "unknown"


WORST = (State.UNSETTLED, State.UNKNOWN, State.GROWING, State.SETTLED)


@dataclass(frozen=True)
class Curve:
    """How the amax of one tag at one site grows with the number of sequences.

    `points`: (sequences, expected amax), ascending, the last being (n, amax). `step`: what the
    expected amax gains with a doubling, the mean of the last three. `leaders`: sequences that
    reach the amax within what E4M3 rounds away; 1 says that one sequence alone sets the scale.
    """

    points: tuple[tuple[int, float], ...]
    step: float
    leaders: int

    @property
    def sequences(self) -> int:
        """Sequences of the tag, n."""
        return self.points[-1][0]

    @property
    def amax(self) -> float:
        """The largest value seen."""
        return self.points[-1][1]

    @property
    def half_would_clip(self) -> float:
        """The chance that a random half as calibration would have clipped the other half."""
        n, half = self.sequences, self.sequences // 2
        drawn = np.arange(self.leaders)  # C(n-m, h) / C(n, h), one factor a leader
        return float(np.prod(np.maximum(0, n - half - drawn) / (n - drawn)))

    def predicted(self, sequences: float) -> float:
        """The amax to expect of so many sequences, n or more: an extrapolation (see above)."""
        return self.amax + self.step * math.log2(sequences / self.sequences)

    def exceeded_within(self, further: int) -> float:
        """The chance, at most, that any of `further` sequences exceeds the amax."""
        return further / (self.sequences + further)


@dataclass(frozen=True)
class Convergence:
    """One site: the amax of all its text and that of the second sequence, and a curve by tag.

    A tag without sequences has no curve.
    """

    site: Site
    amax: float
    runner_up: float
    curves: Mapping[str, Curve]

    @property
    def tag(self) -> str:
        """The tag whose doubling would lift the amax of the site most; "" if none was seen."""
        return max(self.curves, key=lambda tag: self._grown(self.curves[tag]), default="")

    @property
    def growth(self) -> float:
        """Expected amax with twice the text of that tag, over the amax of all text."""
        return max(map(self._grown, self.curves.values()), default=1.0)

    @property
    def alone(self) -> bool:
        """Does one sequence alone set the scale, so that without it, it would be clipped by 20%?"""
        return self.amax > HARMS * self.runner_up

    @property
    def state(self) -> State:
        """By `growth` and `alone`."""
        if min((curve.sequences for curve in self.curves.values()), default=0) < FEWEST:
            return State.UNKNOWN
        if self.growth > HARMS or self.alone:
            return State.UNSETTLED
        return State.SETTLED if self.growth <= CLIPS_NOTHING else State.GROWING

    @property
    def more(self) -> int:
        """Further sequences of `tag` that it takes; 0 unless growing or not settled.

        Growing: until a doubling clips nothing. Not settled: until one clips by no more than 20%.
        With a fixed step s, growth at amax A is 1 + s / A, so A must come to s / (growth - 1):
        where the amax grows with log n this may be more text than there is, and a `margin` is
        the answer. Where one sequence stands alone it takes as many again as there are: what one
        in n shows is to be expected once more in n.
        """
        enough = {State.GROWING: CLIPS_NOTHING, State.UNSETTLED: HARMS}.get(self.state)
        if enough is None:
            return 0
        curve = self.curves[self.tag]
        doublings = 1 / (enough - 1) - curve.amax / curve.step if self.growth > enough else 0.0
        further = math.ceil(curve.sequences * (2 ** max(doublings, 0.0) - 1))
        return max(further, curve.sequences if self.alone else 0)

    def margin(self, times: float) -> float:
        """By how much to widen the scale for `times` the text: predicted amax / amax, 1 or more."""
        if self.amax == 0:
            return 1.0
        grown = (curve.predicted(curve.sequences * times) for curve in self.curves.values())
        return max(1.0, max(grown) / self.amax)

    def _grown(self, curve: Curve) -> float:
        doubled = curve.predicted(2 * curve.sequences)
        return max(1.0, doubled / self.amax) if self.amax > 0 else 1.0


def convergence(profile: Profile) -> list[Convergence]:
    """One per activation that FP8 casts, the least settled first."""
    found = [site_convergence(profile, site) for site in cast_sites(profile)]
    return sorted(found, key=lambda row: (WORST.index(row.state), -row.growth))


def site_convergence(profile: Profile, site: Site) -> Convergence:
    """How the amax of one site grows. Raises KeyError as `Profile.site`."""
    record = profile.site(site)
    seen = record.sequence_binades.any(axis=1)
    runner_up, amax = np.sort(np.append(record.sequence_amax[seen], [0, 0]))[-2:].tolist()
    curves = {}
    for number, tag in enumerate(profile.tags):
        mine = record.sequence_amax[seen & (profile.samples["tag"] == number)]
        if len(mine):
            curves[tag] = growth_curve(mine)
    return Convergence(site, amax, runner_up, curves)


def growth_curve(sequence_amax: NDArray[np.float32]) -> Curve:
    """The curve of the amax of each of n exchangeable sequences, [n] with n ≥ 1."""
    n = len(sequence_amax)
    halvings = [n >> i for i in range(n.bit_length())][::-1]
    points = tuple((k, expected_amax(sequence_amax, k)) for k in halvings)
    k, start = points[-min(4, len(points))]
    step = (points[-1][1] - start) / math.log2(n / k) if n > k else 0.0
    leaders = int((sequence_amax >= sequence_amax.max() * np.float32(NO_HEADROOM)).sum())
    return Curve(points, max(0.0, step), leaders)


def expected_amax(sequence_amax: NDArray[np.float32], k: int) -> float:
    """The mean, over all subsets of k of the n sequences, of the subset's amax; 1 ≤ k ≤ n.

    Closed form: see the module. The n terms come by recurrence from the largest, whose weight is
    k / n: that of x_(j-1) is that of x_(j) times (j - k) / (j - 1).
    """
    n = len(sequence_amax)
    j = np.arange(n, 1, -1, dtype=np.float64)
    factors = np.maximum((j - k) / (j - 1), 0.0)
    weights = k / n * np.cumprod(np.concatenate(([1.0], factors)))
    descending = np.sort(sequence_amax.astype(np.float64))[::-1]
    return float(weights @ descending)
