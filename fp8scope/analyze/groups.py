"""What FP8 does to each fused group: how much it costs, why, and what costs less."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fp8scope.analyze.cause import Cause, SiteCause, site_cause
from fp8scope.analyze.measures import SiteMeasures, measure
from fp8scope.analyze.sensitivity import Score, Scores
from fp8scope.analyze.thresholds import (
    AVOIDABLE_NATS,
    AVOIDABLE_TIMES,
    DAMAGED_DB,
    HARM_NATS,
    UNEXPLAINED_TIMES,
)
from fp8scope.core.choices import Kind, in_block
from fp8scope.core.gemms import Unit, units
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.core.sites import Role, Site
from fp8scope.profile.record import Profile

PLAIN = "fp8_tensor"


@dataclass(frozen=True)
class GroupFinding:
    """One fused group in FP8 with one static scale per tensor.

    `candidates` are its scores alone by name, empty where the profile was not scored; `smoothed` is
    the cheapest of it smoothed together with what that is folded into, and `unsmoothed` what both
    cost as they are. `worst` is the input or weight with the lowest body SQNR, and `cause` that of
    the site that explains the cost best. Not `in_block` is what engines keep in BF16: lm_head.
    """

    group: str
    members: tuple[str, ...]
    candidates: Mapping[str, Score]
    smoothed: Score | None
    unsmoothed: float | None
    worst: SiteMeasures
    cause: SiteCause
    in_block: bool = True

    @property
    def plain(self) -> Score | None:
        """The score in `fp8_tensor`."""
        return self.candidates.get(PLAIN)

    @property
    def harmful(self) -> bool:
        """Whether the group is a finding. By its KL: it alone spends what a whole model may, beyond
        doubt (one standard error); or it has an outlier, for which it pays several times what it
        need in FP8 (what-ifs count for nothing). Without a KL: it has a damaged tensor. Never
        lm_head, which stays in BF16 anyway.
        """
        if not self.in_block:
            return False
        if self.plain is None:
            return self.worst.error.body_sqnr_db < DAMAGED_DB
        if self.cause.cause is not Cause.ROUNDING and self.plain.kl >= AVOIDABLE_NATS:
            served = (self.candidates.get(name) for name in DEFAULT_CANDIDATES)
            cheapest = min(score.kl for score in served if score)
            if self.plain.kl >= AVOIDABLE_TIMES * cheapest:
                return True
        nats = self.plain.nats
        return nats.kl - (0.0 if math.isnan(nats.error) else nats.error) >= HARM_NATS

    @property
    def severity(self) -> tuple[float, tuple[float, float, float, float]]:
        """Smaller is worse: KL, then the measures of the worst site."""
        return -(self.plain.kl if self.plain else 0.0), self.worst.severity


def group_findings(profile: Profile) -> list[GroupFinding]:
    """One per fused group that the text has reached, the worst first."""
    scores = Scores(profile) if profile.sensitivity else None
    found = [
        _finding(profile, unit, scores)
        for unit in units(profile.structure)
        if all(name in profile.weights for gemm in unit.gemms for name in gemm.members)
        and _seen(profile, unit)
    ]
    return sorted(found, key=lambda finding: finding.severity)


def _finding(profile: Profile, unit: Unit, scores: Scores | None) -> GroupFinding:
    members = tuple(name for gemm in unit.gemms for name in gemm.members)
    measured = [measure(profile, site) for site in _sites(profile, unit)]
    worst = min(measured, key=lambda row: row.severity)
    candidates = scores.candidates(unit.name) if scores else {}
    pairs = scores.pairs(unit.name) if scores else []
    smoothed = pairs[0] if pairs else None
    unsmoothed = None
    if smoothed and scores:
        plain = [scores.candidates(term.group).get(PLAIN) for term in smoothed.row.terms]
        unsmoothed = sum(score.kl for score in plain if score)
    return GroupFinding(
        group=unit.name,
        members=members,
        candidates=candidates,
        smoothed=smoothed,
        unsmoothed=unsmoothed,
        worst=worst,
        cause=_cause(profile, measured),
        in_block=in_block(unit, profile.structure),
    )


def group_cause(profile: Profile, unit: Unit) -> SiteCause:
    """Why a group suffers in FP8 with one static scale per tensor."""
    return _cause(profile, [measure(profile, site) for site in _sites(profile, unit)])


def _cause(profile: Profile, measured: list[SiteMeasures]) -> SiteCause:
    """That of the most damaged site which has one; plain rounding only if all say so."""
    causes = [
        site_cause(profile, row.site) for row in sorted(measured, key=lambda row: row.severity)
    ]
    outliers = [cause for cause in causes if cause.cause is not Cause.ROUNDING]
    return (outliers or causes)[0]


def _sites(profile: Profile, unit: Unit) -> list[Site]:
    """The group's inputs, each once, and weights."""
    sites = []
    for gemm in unit.gemms:
        sites.append(profile.owner(Site(gemm.members[0], Role.INPUT)))
        sites += [Site(name, Role.WEIGHT) for name in gemm.members]
    return sites


def _seen(profile: Profile, unit: Unit) -> bool:
    inputs = (Site(gemm.members[0], Role.INPUT) for gemm in unit.gemms)
    return all(profile.owner(site) in profile.sites for site in inputs)


def model_scores(profile: Profile, scores: Scores | None = None) -> dict[str, Score]:
    """The whole model in each candidate, by name; `fp8_tensor + kv_cache` with every cache.

    Empty where the profile was not scored. `scores`: the profile's, where they are made already.
    """
    if profile.sensitivity is None:
        return {}
    named = {}
    caches = {layer.group for layer in profile.structure.kv_layers}
    for score in (scores or Scores(profile)).kind(Kind.MODEL):
        names = {term.candidate for term in score.row.terms}
        name = "fp8_smooth" if "fp8_smooth" in names else score.row.terms[0].candidate
        if any(term.group in caches for term in score.row.terms):
            name += " + kv_cache"
        named[name] = score
    return named


def unexplained(models: Mapping[str, Score], groups: Iterable[GroupFinding]) -> bool:
    """Whether the whole model, measured, costs far more than all that is known of its groups.

    Second order does not hold then, and the predictions of single groups are too low.
    """
    whole = models.get(PLAIN)
    if whole is None or whole.measured is None or whole.kl < HARM_NATS:
        return False
    alone = sum(group.plain.kl for group in groups if group.plain and group.in_block)
    return whole.kl > UNEXPLAINED_TIMES * alone
