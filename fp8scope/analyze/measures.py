"""The measures of one site, from its record alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fp8scope.analyze import thresholds
from fp8scope.core.error import QuantError, quantization_error
from fp8scope.core.formats import E4M3
from fp8scope.core.histogram import Histogram
from fp8scope.core.sites import Role, Site
from fp8scope.core.top import Top
from fp8scope.profile.record import Profile, SiteRecord


@dataclass(frozen=True)
class TopValue:
    """A large value and where it stood: in which text, and in which document of which file.

    `position` counts tokens from 0, `document` from 1, `window` (of a long document) from 0.
    `token` is "" without an excerpt.
    """

    value: float
    channel: int
    tag: str
    sample: int
    position: int
    source: str
    document: int
    window: int
    token: str
    before: str
    after: str


@dataclass(frozen=True)
class SiteMeasures:
    """One site under E4M3 per tensor, static, scale = amax of all the text / 448.

    `rms_body` is the RMS of the non-zero values up to the .9 quantile of |x|, divided by .7893,
    so that it is σ for a Gaussian; `outlier_ratio` is amax / rms_body.
    `headroom`: the scale that the other tags alone would give, over what this tag needs, for
    the tag where it is smallest (`headroom_tag`); under 1 that tag would saturate if it had not
    been in the calibration. None with one tag; "" where two tags share the largest value.
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
    worst: TopValue | None

    @property
    def severity(self) -> tuple[float, float, float, float]:
        """Smaller is worse: body SQNR, underflow, headroom, amax/rms.

        What lies within the noise of a measure is equal in it (see `thresholds`).
        """
        underflow = self.error.underflow_rate
        headroom = 1.0 if self.headroom is None else self.headroom
        return (
            min(self.error.body_sqnr_db, thresholds.FLOOR_DB),
            -underflow if underflow >= thresholds.NOISE_UNDERFLOW else 0.0,
            headroom if headroom < thresholds.LOW_HEADROOM else 1.0,
            -self.outlier_ratio,
        )


def measure_sites(profile: Profile) -> list[SiteMeasures]:
    """Measures of every activation site and weight, the most severe first."""
    sites = [*profile.sites, *(Site(module, Role.WEIGHT) for module in profile.weights)]
    return sorted((measure(profile, site) for site in sites), key=lambda row: row.severity)


def measure(profile: Profile, site: Site) -> SiteMeasures:
    """Measures of one site. Raises KeyError for a site that the profile does not hold."""
    if site.role is Role.WEIGHT:
        return _measures(site, (site.module,), profile.weights[site.module].magnitudes())
    record = profile.sites[site]
    best = record.best()
    worst = top_values(profile, best.take(np.arange(len(best))[:1]))
    return _measures(
        site,
        profile.sharers(site),
        record.magnitudes(),
        *_headroom(profile, record),
        worst[0] if worst else None,
    )


def _measures(
    site: Site,
    shared_by: tuple[str, ...],
    histogram: Histogram,
    headroom: float | None = None,
    headroom_tag: str = "",
    worst: TopValue | None = None,
) -> SiteMeasures:
    return SiteMeasures(
        site=site,
        shared_by=shared_by,
        elements=histogram.elements,
        amax=histogram.amax,
        rms_body=histogram.rms_body(),
        outlier_ratio=histogram.outlier_ratio(),
        error=quantization_error(histogram, E4M3),
        headroom=headroom,
        headroom_tag=headroom_tag,
        worst=worst,
    )


def _headroom(profile: Profile, record: SiteRecord) -> tuple[float | None, str]:
    by_tag = [record.magnitudes(tag).amax for tag in range(record.tags)]
    # only the tag with the largest amax can exceed what the others give
    largest = int(np.argmax(by_tag))
    amax = by_tag.pop(largest)
    if not by_tag or amax == 0:
        return None, ""
    return max(by_tag) / amax, "" if max(by_tag) == amax else profile.tags[largest]


def top_values(profile: Profile, top: Top) -> list[TopValue]:
    """The entries of a top list of this profile with their places in the text, best first."""
    samples, found = profile.samples, []
    for i in range(len(top)):
        sample, position = int(top.sample[i]), int(top.position[i])
        token, before, after = excerpt_at(profile, sample, position)
        value = TopValue(
            value=float(top.value[i]),
            channel=int(top.channel[i]),
            tag=profile.tags[samples["tag"][sample]],
            sample=sample,
            position=position,
            source=str(profile.sources[samples["source"][sample]]["location"]),
            document=int(samples["document"][sample]),
            window=int(samples["window"][sample]),
            token=token,
            before=before,
            after=after,
        )
        found.append(value)
    return found


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
