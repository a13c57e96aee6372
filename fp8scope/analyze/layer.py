"""All findings about one module: what `analyze --layer` shows beside its sites' numbers."""

from __future__ import annotations

from dataclasses import dataclass

from fp8scope.analyze.cause import SiteCause, site_cause
from fp8scope.analyze.convergence import Convergence, site_convergence
from fp8scope.analyze.detail import SiteDetail, module_detail
from fp8scope.analyze.headroom import Headroom, headroom_matrix
from fp8scope.analyze.sensitivity import Score, Scores
from fp8scope.analyze.thresholds import CAST_ROLES
from fp8scope.core.sites import Role
from fp8scope.profile.record import Profile


@dataclass(frozen=True)
class LayerFindings:
    """`group` is the fused group of the module (of an attention module its KV cache), "" if that
    was not scored; `scores` are all rows of it alone, the cheapest first, `pairs` those in which it
    is smoothed with what it is folded into. `headroom` holds one entry per calibration tag.
    """

    module: str
    group: str
    scores: list[Score]
    pairs: list[Score]
    causes: list[SiteCause]
    headroom: list[Headroom]
    convergence: list[Convergence]
    details: list[SiteDetail]


def layer_findings(profile: Profile, module: str) -> LayerFindings:
    """Everything about a module, or about all members of a fused group, that the profile holds."""
    found = {
        detail.measures.site: detail
        for member in _members(profile, module)
        for detail in module_detail(profile, member)
    }
    details = list(found.values())
    cast = [d.measures.site for d in details if d.measures.site.role in CAST_ROLES]
    activations = [site for site in cast if site.role is not Role.WEIGHT]
    group = _group(profile, module)
    scores = Scores(profile) if profile.sensitivity else None
    alone = list(scores.alone(group)) if scores else []
    return LayerFindings(
        module=module,
        group=group if alone else "",
        scores=sorted(alone, key=lambda score: score.kl),
        pairs=scores.pairs(group) if scores else [],
        causes=[site_cause(profile, site) for site in cast],
        headroom=[row for site in activations for row in headroom_matrix(profile, site).values()]
        if len(profile.tags) > 1
        else [],
        convergence=[site_convergence(profile, site) for site in activations],
        details=details,
    )


def _members(profile: Profile, name: str) -> tuple[str, ...]:
    groups = {group.name: group.members for group in profile.structure.groups}
    return groups.get(name, (name,))


def _group(profile: Profile, module: str) -> str:
    for group in profile.structure.groups:
        if module in (group.name, *group.members):
            return group.name
    caches = {layer.attention: layer.group for layer in profile.structure.kv_layers}
    return caches.get(module, "")
