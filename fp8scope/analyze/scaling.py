"""Static or dynamic: is one scale from the calibration safe for a linear's input, or not?

What speaks against a static scale, in this order:

1. The body of some tag is lost under it (`DAMAGED_DB`). A scale per token cures that where most
   tokens have no outlier of their own; where they have, only smoothing or BF16 does. Both are told
   apart by the body SQNR under the scale that nine tokens in ten would get or better.
2. The amax has not settled: traffic will exceed what calibration saw.
3. It still grows slowly. E4M3 is a floating-point format, so a scale wider than amax / 448
   costs nothing until the smallest values underflow: a margin is enough where the body bears it.

A scale that hangs on one tag is safe as long as that tag stays in the calibration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from fp8scope.analyze.convergence import Convergence, State, site_convergence
from fp8scope.analyze.measures import measure
from fp8scope.analyze.thresholds import DAMAGED_DB, LOW_HEADROOM
from fp8scope.core.error import quantization_error
from fp8scope.core.formats import E4M3
from fp8scope.core.histogram import Histogram
from fp8scope.core.sites import Role, Site
from fp8scope.profile.record import Profile, SiteRecord

MOST_TRAFFIC = 1000
"""How many times the text of the calibration a margin is to last for."""
TOKEN_QUANTILE = 0.9


class Need(StrEnum):
    """What a linear's input needs, from the least to the most; not known from few sequences."""

    STATIC = "static"
    MARGIN = "static with a margin"
    UNKNOWN = "not known"
    DYNAMIC = "dynamic per token"
    MORE = "more than a scale"


@dataclass(frozen=True)
class Scaling:
    """One input: what it needs, and why.

    `static_db` is the body SQNR of `lowest_tag` (where it is lowest) under the static scale,
    `token_db` that under the scale of nine tokens in ten; `margin_db` as `static_db`, with the
    scale widened by `margin` (what a thousand times the text is predicted to need).
    `spread` is the amax over the median sequence's. `keep_tag` names the tag on which alone the
    scale hangs, "" if none.
    """

    site: Site
    need: Need
    static_db: float
    lowest_tag: str
    token_db: float
    margin: float
    margin_db: float
    spread: float
    keep_tag: str
    convergence: Convergence

    @property
    def severity(self) -> tuple[int, float, float]:
        """Smaller is worse: the need, then growth, then the body SQNR."""
        return -list(Need).index(self.need), -self.convergence.growth, self.static_db


@dataclass(frozen=True)
class ScalingVerdict:
    """All inputs, the worst first, and what they need together: as much as the worst of them."""

    rows: tuple[Scaling, ...]

    @property
    def need(self) -> Need:
        """What one setting for the whole model must be; static where there is no input."""
        return self.rows[0].need if self.rows else Need.STATIC

    def of(self, need: Need) -> list[Scaling]:
        """The inputs with this need."""
        return [row for row in self.rows if row.need is need]


def scaling(profile: Profile) -> ScalingVerdict:
    """The verdict on every input of a linear. For the KV cache see `kvcache`."""
    rows = [site_scaling(profile, site) for site in profile.sites if site.role is Role.INPUT]
    return ScalingVerdict(tuple(sorted(rows, key=lambda row: row.severity)))


def site_scaling(profile: Profile, site: Site) -> Scaling:
    """The verdict on one input. Raises KeyError as `Profile.site`."""
    record, settled = profile.site(site), site_convergence(profile, site)
    histograms = [record.magnitudes(tag) for tag in range(record.tags)]
    amax = max(h.amax for h in histograms)
    margin = settled.margin(MOST_TRAFFIC)
    by_tag = [_body_db(h, amax) for h in histograms]
    static_db, token_db = min(by_tag), _lowest_body(histograms, _token_amax(record))
    margin_db = _lowest_body(histograms, amax * margin)
    measured = measure(profile, profile.owner(site))
    hangs = measured.headroom is not None and measured.headroom < LOW_HEADROOM
    return Scaling(
        site=site,
        need=_need(static_db, token_db, margin_db, settled.state),
        static_db=static_db,
        lowest_tag=profile.tags[by_tag.index(static_db)],
        token_db=token_db,
        margin=margin,
        margin_db=margin_db,
        spread=_spread(record),
        keep_tag=measured.headroom_tag if hangs else "",
        convergence=settled,
    )


def _need(static_db: float, token_db: float, margin_db: float, state: State) -> Need:
    if static_db < DAMAGED_DB:
        return Need.DYNAMIC if token_db >= DAMAGED_DB else Need.MORE
    if state is State.GROWING:
        return Need.MARGIN if margin_db >= DAMAGED_DB else Need.DYNAMIC
    return {State.SETTLED: Need.STATIC, State.UNKNOWN: Need.UNKNOWN}.get(state, Need.DYNAMIC)


def _lowest_body(histograms: Iterable[Histogram], amax: float) -> float:
    return min(_body_db(histogram, amax) for histogram in histograms)


def _body_db(histogram: Histogram, amax: float) -> float:
    return quantization_error(histogram, E4M3, float(E4M3.scale(amax))).body_sqnr_db


def _token_amax(record: SiteRecord) -> float:
    """The amax that nine tokens in ten do not exceed (upper edge of its bin for fp32)."""
    counts = record.token_amax.sum(axis=0)
    tokens = Histogram(record.encoding, counts, int(counts[0]), float(record.amax.max()))
    return tokens.quantile(TOKEN_QUANTILE)


def _spread(record: SiteRecord) -> float:
    median = float(np.median(record.sequence_amax))
    return float(record.sequence_amax.max()) / median if median > 0 else 1.0
