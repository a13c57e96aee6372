"""Two profiles of one architecture: what changed from A to B, and would A's scales hold on B.

A and B are calibration and production, two texts, or a model and its fine-tune. Sites are compared
by name and width, whatever the dtypes: a scale has no dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.headroom import cast_sites
from fp8scope.analyze.measures import SiteMeasures, measure
from fp8scope.analyze.saturation import Saturation, saturation
from fp8scope.analyze.thresholds import DAMAGED_DB
from fp8scope.analyze.weight_changes import WeightChange, weight_changes
from fp8scope.core.formats import E4M3
from fp8scope.core.sites import Role, Site
from fp8scope.errors import CannotCompare
from fp8scope.profile.record import Profile

STANDS_OUT = 10.0
"""A channel stands out where its amax is this many times that of the median channel …"""
STOOD_OUT = 5.0
"""… and is new where it was under this many in A, so that none flickers about one line."""


@dataclass(frozen=True)
class NewOutlier:
    """A channel that stands out in B and did not in A; both as times the median channel's amax."""

    channel: int
    over_median_a: float
    over_median_b: float


@dataclass(frozen=True)
class SiteChange:
    """One activation in A and in B.

    `whole` and `tags` (of B) are B's values under A's static scale. `rank_*` is the place by
    severity, from 1, among the sites that are in both.
    """

    site: Site
    a: SiteMeasures
    b: SiteMeasures
    whole: Saturation
    tags: Mapping[str, Saturation]
    new_outliers: tuple[NewOutlier, ...]
    rank_a: int
    rank_b: int

    @property
    def amax_ratio(self) -> float:
        """The amax of B over that of A; 1 where both are silent, inf where only A is."""
        return _ratio(self.b.amax, self.a.amax)

    @property
    def drift(self) -> float:
        """The share of B's sequences, of all or of one tag, that A's scale clips far, for certain.

        Far: the largest value loses more than 20%. For certain: the lower end of the 95% interval,
        so that one odd sequence among few is no drift.
        """
        return max(of.far_interval[0] for of in (self.whole, *self.tags.values()))

    @property
    def worst_tag(self) -> str:
        """The tag of B that A's scale serves worst."""
        return min(self.tags, key=lambda tag: self.tags[tag].severity)

    @property
    def newly_damaged(self) -> bool:
        """Is B's body lost, with a scale of its own, where A's was not?"""
        return self.b.error.body_sqnr_db < DAMAGED_DB <= self.a.error.body_sqnr_db

    @property
    def severity(self) -> tuple[float, float, bool, int, float]:
        """Smaller is worse: clipped far, clip, newly damaged, new outliers, change of amax."""
        change = abs(math.log(self.amax_ratio)) if 0 < self.amax_ratio < math.inf else math.inf
        return (
            *min(of.severity for of in (self.whole, *self.tags.values()))[:2],
            not self.newly_damaged,
            -len(self.new_outliers),
            -change,
        )


@dataclass(frozen=True)
class Comparison:
    """What changed, worst first. Sites and weights that only one side has are not compared."""

    sites: tuple[SiteChange, ...]
    weights: tuple[WeightChange, ...]
    weights_compared: int
    tags_only_a: tuple[str, ...]
    tags_only_b: tuple[str, ...]
    not_compared: tuple[str, ...]

    @property
    def drift(self) -> float:
        """`SiteChange.drift` of the site where it is largest, in [0, 1]."""
        return max(row.drift for row in self.sites)


def compare_profiles(a: Profile, b: Profile) -> Comparison:
    """What changed from A to B.

    Raises CannotCompare where no site has the same name and width in both.
    """
    shapes_a, shapes_b = _shapes(a), _shapes(b)
    common = [site for site, shape in shapes_a.items() if shapes_b.get(site) == shape]
    sites = [site for site in common if site in a.sites]
    if not sites:
        raise CannotCompare(
            f"{_name(a)} and {_name(b)} have no layer of the same name and width",
            "compare profiles of one architecture",
        )
    weights = [site.module for site in common if site.role is Role.WEIGHT]
    both = shapes_a.keys() | shapes_b.keys()
    return Comparison(
        sites=tuple(sorted(_changes(a, b, sites), key=lambda row: row.severity)),
        weights=weight_changes(a, b, weights),
        weights_compared=len(weights),
        tags_only_a=tuple(tag for tag in a.tags if tag not in b.tags),
        tags_only_b=tuple(tag for tag in b.tags if tag not in a.tags),
        not_compared=tuple(sorted(str(site) for site in both - set(common))),
    )


def _shapes(profile: Profile) -> dict[Site, tuple[int, ...]]:
    """Width of each activation that FP8 casts, under every name, and shape of each weight."""
    shapes: dict[Site, tuple[int, ...]] = {
        site: profile.sites[site].channel_amax.shape[1:] for site in cast_sites(profile)
    }
    aliases = {site: shapes[at] for site, at in profile.aliases.items() if at in shapes}
    for module in profile.weights:
        record = profile.weights[module]
        shapes[Site(module, Role.WEIGHT)] = len(record.row_amax), len(record.column_amax)
    return shapes | aliases


def _name(profile: Profile) -> str:
    return str(profile.model.get("name") or profile.model.get("architecture"))


def _changes(a: Profile, b: Profile, sites: list[Site]) -> Iterator[SiteChange]:
    measured = [
        {site: measure(profile, profile.owner(site)) for site in sites} for profile in (a, b)
    ]
    ranks = [
        {site: rank for rank, site in enumerate(sorted(sites, key=lambda s: m[s].severity), 1)}
        for m in measured
    ]
    for site in sites:
        scale, record = float(E4M3.scale(measured[0][site].amax)), b.site(site)
        yield SiteChange(
            site=site,
            a=measured[0][site],
            b=measured[1][site],
            whole=saturation(b, record, scale),
            tags={tag: saturation(b, record, scale, i) for i, tag in enumerate(b.tags)},
            new_outliers=_new_outliers(a.site(site).channel_amax, record.channel_amax),
            rank_a=ranks[0][site],
            rank_b=ranks[1][site],
        )


def _new_outliers(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[NewOutlier, ...]:
    """Of the amax by tag and channel; the largest first."""
    before, now = _over_median(a), _over_median(b)
    new = np.flatnonzero((now >= STANDS_OUT) & (before < STOOD_OUT))
    order = new[np.argsort(-now[new], kind="stable")]
    return tuple(NewOutlier(int(i), float(before[i]), float(now[i])) for i in order)


def _over_median(channel_amax: NDArray[np.float32]) -> NDArray[np.float32]:
    amax = channel_amax.max(axis=0)
    median = np.median(amax)
    return amax / median if median > 0 else np.zeros_like(amax)


def _ratio(b: float, a: float) -> float:
    if a == 0:
        return math.inf if b else 1.0
    return b / a
