"""One module, read for its screen: its findings, and what can be tried on each site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fp8scope.analyze.detail import SiteDetail
from fp8scope.analyze.layer import LayerFindings, layer_findings
from fp8scope.analyze.scales import Scales
from fp8scope.analyze.thresholds import CAST_ROLES
from fp8scope.core.choices import Part
from fp8scope.core.formats import E4M3, E5M2, INT8
from fp8scope.core.sites import Role, Site
from fp8scope.profile.record import Profile
from fp8scope.report.findings import with_error
from fp8scope.report.snapshot import Snapshot
from fp8scope.tui.whatif import ALPHAS, Trial, WhatIf, what_if

CANDIDATE = {E4M3: "fp8_tensor", E5M2: "e5m2_tensor", INT8: "int8_tensor"}

MANY = 2**16


@dataclass(frozen=True)
class Study:
    """What reading a module gave: what `analyze --layer` shows, and a what-if for each site."""

    findings: LayerFindings
    trials: Mapping[Site, WhatIf]

    @property
    def worst(self) -> int:
        """The number of the site that suffers most of those that FP8 casts, or else of all."""
        details = self.findings.details
        cast = [d for d in details if d.measures.site.role in CAST_ROLES] or details
        return details.index(min(cast, key=lambda d: d.measures.severity)) if details else 0

    def prepare(self, stop: Callable[[], bool]) -> None:
        """Smooth stacked experts in advance: of a million channels it takes 0.2 s for each α."""
        for trial in self.trials.values():
            if trial.smooth and trial.smooth.channels.amax.size >= MANY:
                for alpha in ALPHAS:
                    if stop():
                        return
                    trial.outcome(Trial(alpha=alpha))

    def scored(self, detail: SiteDetail, trial: Trial) -> str:
        """What the group (or cache) costs in the candidate that is this trial, if that is known."""
        if trial.eighths or detail.measures.site.role not in CAST_ROLES:
            return ""
        cache = detail.measures.site.role in (Role.K, Role.V)
        name = CANDIDATE.get(trial.format, "")
        if trial.alpha is not None and not cache:
            name = {"fp8_tensor": "fp8_smooth", "int8_tensor": "int8_smooth"}.get(name, "")
        alpha, folded = (None, trial.alpha) if cache else (trial.alpha, None)
        for score in self.findings.scores:
            term = score.row.terms[-1]
            if (term.candidate, term.alpha, term.folded, term.part) == (
                *(name, alpha, folded),
                Part.BOTH,
            ):
                return f"{self.findings.group} in {name} costs {with_error(score)} nats per token"
        return ""


def study(profile: Profile, module: str) -> Study:
    """Read it: 0.1 to 0.4 s of a profile of 80 blocks. Raises DamagedProfile."""
    findings, scales = layer_findings(profile, module), Scales(profile)
    sites = (detail.measures.site for detail in findings.details)
    return Study(findings, {site: what_if(profile, scales, site) for site in sites})


def readable(profile: Profile, name: str) -> str:
    """The module that holds what a name stands for: of a KV cache its attention module."""
    caches = {layer.group: layer.attention for layer in profile.structure.kv_layers}
    return caches.get(name, name)


def siblings(snapshot: Snapshot, module: str) -> list[str]:
    """The modules among which one is, in order: linears and caches; fused groups; all others."""
    grid, profile = snapshot.grid, snapshot.profile
    linears = [grid.modules[place] for place in sorted(grid.modules)]
    groups = [group.name for group in profile.structure.groups]
    others = [*profile.structure.blocks, *sorted({site.module for site in profile.sites})]
    kinds = (linears, groups, list(dict.fromkeys(others)))
    return next((names for names in kinds if module in names), [module])
