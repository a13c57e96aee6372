"""Everything that a profile says, gathered once: what every view shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fp8scope.analyze.convergence import Convergence, convergence
from fp8scope.analyze.coverage import Coverage, expert_coverage
from fp8scope.analyze.groups import GroupFinding, group_findings, model_scores
from fp8scope.analyze.headroom import Headroom, tag_headroom
from fp8scope.analyze.kvcache import CachedLayer, kv_cache
from fp8scope.analyze.measures import SiteMeasures, measure_sites
from fp8scope.analyze.scaling import ScalingVerdict, scaling
from fp8scope.analyze.sensitivity import Score
from fp8scope.profile.record import Profile


@dataclass(frozen=True)
class TagDamage:
    """One tag with the whole model in `fp8_tensor`: nats per token, and of its group that costs
    most the name and the nats.
    """

    tag: str
    whole: float
    group: str
    nats: float


@dataclass(frozen=True)
class Analysis:
    """Each part is sorted, the worst first. `models` are the whole model's scores by candidate;
    `tags` and `models` are empty where the profile was not scored.
    """

    profile: Profile
    sites: list[SiteMeasures]
    groups: list[GroupFinding]
    models: Mapping[str, Score]
    tags: list[TagDamage]
    scaling: ScalingVerdict
    headroom: list[Headroom]
    convergence: list[Convergence]
    kv_cache: list[CachedLayer]
    experts: list[Coverage]

    @property
    def harmful(self) -> list[GroupFinding]:
        """The groups that are findings."""
        return [group for group in self.groups if group.harmful]


def analyze_profile(profile: Profile) -> Analysis:
    """All findings of a profile."""
    groups, models = group_findings(profile), model_scores(profile)
    return Analysis(
        profile=profile,
        sites=measure_sites(profile),
        groups=groups,
        models=models,
        tags=tag_damage(groups, models),
        scaling=scaling(profile),
        headroom=tag_headroom(profile) if len(profile.tags) > 1 else [],
        convergence=convergence(profile),
        kv_cache=kv_cache(profile),
        experts=expert_coverage(profile),
    )


def tag_damage(groups: Iterable[GroupFinding], models: Mapping[str, Score]) -> list[TagDamage]:
    """What each tag suffers, the worst first; empty where the profile was not scored."""
    whole = models.get("fp8_tensor")
    if whole is None:
        return []
    inside = {term.group for term in whole.row.terms}
    scored = [group for group in groups if group.plain and group.group in inside]
    found = []
    for tag, nats in whole.tags.items():
        by_group = {g.group: g.plain.tags[tag].kl for g in scored if g.plain}
        if not by_group:
            continue
        worst = max(by_group, key=lambda name: by_group[name])
        found.append(TagDamage(tag, nats.kl, worst, by_group[worst]))
    return sorted(found, key=lambda damage: -damage.whole)
