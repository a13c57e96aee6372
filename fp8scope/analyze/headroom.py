"""Static scales on other traffic: those of one tag, or of another profile, on every tag.

Members of a fused group share one input, and with it one scale, as engines have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fp8scope.analyze.saturation import Saturation, saturation
from fp8scope.analyze.thresholds import CAST_ROLES
from fp8scope.core.formats import E4M3
from fp8scope.core.sites import Site
from fp8scope.profile.record import Profile, SiteRecord


@dataclass(frozen=True)
class Headroom:
    """One site under a scale from `calibration` (a tag or a name), by tag of the traffic."""

    site: Site
    calibration: str
    tags: Mapping[str, Saturation]

    @property
    def worst_tag(self) -> str:
        """The tag that the scale serves worst."""
        return min(self.tags, key=lambda tag: self.tags[tag].severity)

    @property
    def worst(self) -> Saturation:
        """How it serves that tag."""
        return self.tags[self.worst_tag]


def static_scales(profile: Profile, tag: str | None = None) -> dict[Site, float]:
    """The static E4M3 scale of every activation that FP8 casts, from one tag or from all text.

    Left out: a site that saw nothing but zeros. Raises ValueError for a tag that is not there.
    """
    which = None if tag is None else profile.tags.index(tag)
    scales = {}
    for site in cast_sites(profile):
        amax = profile.sites[site].magnitudes(which).amax
        if amax > 0:
            scales[site] = float(E4M3.scale(amax))
    return scales


def cast_sites(profile: Profile) -> list[Site]:
    """The activations that FP8 casts: inputs of linears, and what the KV cache holds."""
    return [site for site in profile.sites if site.role in CAST_ROLES]


def headroom(
    profile: Profile, scales: Mapping[Site, float], calibration: str = "all text"
) -> list[Headroom]:
    """What `profile`'s tags lose under `scales`, the worst site first.

    scales: of any profile of such a model (`static_scales`). Raises KeyError for a site
    that the profile does not hold.
    """
    found = [
        _headroom(profile, profile.site(site), site, calibration, scale)
        for site, scale in scales.items()
    ]
    return sorted(found, key=lambda row: row.worst.severity)


def headroom_matrix(profile: Profile, site: Site) -> dict[str, Headroom]:
    """What each tag's scale does to each tag's traffic: `matrix[calibration].tags[traffic]`.

    A tag without any value but zeros gives no scale. Raises KeyError as `Profile.site`.
    """
    record = profile.site(site)
    amax = dict(zip(profile.tags, record.amax.tolist(), strict=True))
    return {
        tag: _headroom(profile, record, site, tag, float(E4M3.scale(amax[tag])))
        for tag in profile.tags
        if amax[tag] > 0
    }


def tag_headroom(profile: Profile) -> list[Headroom]:
    """Every site under the scale of each single tag, the worst first; empty with one tag."""
    if len(profile.tags) < 2:
        return []
    matrices = (headroom_matrix(profile, site) for site in cast_sites(profile))
    found = [row for matrix in matrices for row in matrix.values()]
    return sorted(found, key=lambda row: row.worst.severity)


def _headroom(
    profile: Profile, record: SiteRecord, site: Site, calibration: str, scale: float
) -> Headroom:
    tags = {
        tag: saturation(profile, record, scale, number) for number, tag in enumerate(profile.tags)
    }
    return Headroom(site, calibration, tags)
