"""The measures of one site, from its record alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fp8scope.core.error import QuantError, quantization_error
from fp8scope.core.formats import E4M3
from fp8scope.core.sites import Role, Site
from fp8scope.profile.record import Profile, SiteRecord


@dataclass(frozen=True)
class WorstToken:
    """The largest value at a site and where it stood. `token` is "" without an excerpt."""

    value: float
    tag: str
    sample: int
    position: int
    channel: int
    token: str
    before: str
    after: str


@dataclass(frozen=True)
class SiteMeasures:
    """One site under E4M3 per tensor, static, scale = amax of all the text / 448.

    `headroom`: the scale that the other tags alone would give, over what this tag needs, for
    the tag where it is smallest (`headroom_tag`); under 1 that tag would saturate if it had not
    been in the calibration. With one tag it is half the sequences against the other half.
    `shared_by` names all modules that read this tensor. Weights have no headroom and no token.
    """

    site: Site
    shared_by: tuple[str, ...]
    elements: int
    amax: float
    rms_body: float
    outlier_ratio: float
    error: QuantError
    headroom: float | None
    headroom_tag: str
    worst: WorstToken | None


def measure_sites(profile: Profile) -> list[SiteMeasures]:
    """Measures of every activation site and weight, worst body SQNR first."""
    rows = [_activation(profile, site) for site in profile.sites]
    rows += [_weight(profile, module) for module in profile.weights]
    return sorted(rows, key=lambda row: (row.error.body_sqnr_db, -row.outlier_ratio))


def _activation(profile: Profile, site: Site) -> SiteMeasures:
    record = profile.sites[site]
    histogram = record.magnitudes()
    headroom, tag = _headroom(profile, record)
    return SiteMeasures(
        site=site,
        shared_by=profile.sharers(site),
        elements=histogram.elements,
        amax=histogram.amax,
        rms_body=histogram.rms_body(),
        outlier_ratio=histogram.outlier_ratio(),
        error=quantization_error(histogram, E4M3),
        headroom=headroom,
        headroom_tag=tag,
        worst=_worst_token(profile, record),
    )


def _weight(profile: Profile, module: str) -> SiteMeasures:
    histogram = profile.weights[module].magnitudes()
    return SiteMeasures(
        site=Site(module, Role.WEIGHT),
        shared_by=(module,),
        elements=histogram.elements,
        amax=histogram.amax,
        rms_body=histogram.rms_body(),
        outlier_ratio=histogram.outlier_ratio(),
        error=quantization_error(histogram, E4M3),
        headroom=None,
        headroom_tag="",
        worst=None,
    )


def _headroom(profile: Profile, record: SiteRecord) -> tuple[float | None, str]:
    by_tag = record.amax
    if len(by_tag) == 1:
        half = np.array([record.sequence_amax[i::2].max(initial=0) for i in (0, 1)])
        return (float(half.min() / half.max()) if half.min() > 0 else None), ""
    # only the tag with the largest amax can exceed what the others give
    largest = int(by_tag.argmax())
    others = np.delete(by_tag, largest).max()
    if by_tag[largest] == 0:
        return None, ""
    return float(others / by_tag[largest]), profile.tags[largest]


def _worst_token(profile: Profile, record: SiteRecord) -> WorstToken | None:
    best = record.best()
    if not len(best):
        return None
    sample, position = int(best.sample[0]), int(best.position[0])
    text = excerpt_at(profile, sample, position)
    return WorstToken(
        float(best.value[0]),
        profile.tags[profile.samples["tag"][sample]],
        sample,
        position,
        int(best.channel[0]),
        *text,
    )


def excerpt_at(profile: Profile, sample: int, position: int) -> tuple[str, str, str]:
    """Token, text before and text after; empty strings where the profile has no excerpt."""
    table = profile.excerpts
    hit = np.flatnonzero((table["sample"] == sample) & (table["position"] == position))
    if not len(hit):
        return "", "", ""
    token, before, after = (
        table[name][hit[0]].decode("utf-8", "replace") for name in ("token", "before", "after")
    )
    return token, before, after
