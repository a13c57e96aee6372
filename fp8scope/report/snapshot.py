"""What screens and reports show: frozen, and taken from the analysis that every other view shows.

Opening takes a fraction of a second: scores of groups are there at once. What reads every record
comes bit by bit (`filled`), each time as a new snapshot that knows more than the last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fp8scope.analyze.convergence import Convergence, convergence
from fp8scope.analyze.groups import GroupFinding, group_findings, model_scores
from fp8scope.analyze.headroom import Headroom, tag_headroom
from fp8scope.analyze.kvcache import CachedLayer, kv_cache
from fp8scope.analyze.measures import SiteMeasures, measure
from fp8scope.analyze.scaling import ScalingVerdict, scaling
from fp8scope.analyze.sensitivity import Score, Scores
from fp8scope.core.sites import Role, Site
from fp8scope.core.words import common_prefix, short_name
from fp8scope.profile.record import Profile
from fp8scope.report.grid import Grid

if TYPE_CHECKING:
    from fp8scope.artefacts.plan import Plan
    from fp8scope.artefacts.verdict import Verdict

K = TypeVar("K")
R = TypeVar("R")

CHUNK = 24
"""Sites that are measured between two snapshots: a quarter of a second."""


@dataclass(frozen=True)
class Snapshot:
    """One profile, and what is known of it so far; None is what is still to come.

    `prefix`: what all names begin with (`model.`), which screens leave out. `scores`: each fused
    group and KV cache alone, by candidate; empty where the profile was not scored. `ran`: what a
    build of the model really ran in. `sites` grows; `measured` says that it is complete.
    """

    path: Path
    profile: Profile
    prefix: str
    grid: Grid
    models: Mapping[str, Score]
    scores: Mapping[str, Mapping[str, Score]]
    plan: Plan | None = None
    plan_path: Path | None = None
    ran: Verdict | None = None
    sites: Mapping[Site, SiteMeasures] | None = None
    measured: bool = False
    groups: Mapping[str, GroupFinding] | None = None
    scaling: ScalingVerdict | None = None
    kv_cache: tuple[CachedLayer, ...] | None = None
    headroom: tuple[Headroom, ...] | None = None
    convergence: tuple[Convergence, ...] | None = None

    def headroom_under(self, tag: str) -> Mapping[Site, Headroom]:
        """Each site under scales from this tag alone; empty where that is not known (yet)."""
        return self._by_calibration.get(tag, {})

    @property
    def unread(self) -> str:
        """What is still to be read, in words; "" where all is known."""
        if not self.measured:
            total = len(self.profile.sites) + len(self.profile.weights)
            return f"{len(self.sites or ())} of {total} sites read"
        parts = ("groups", "kv_cache", "scaling", "headroom", "convergence")
        left = [part for part in parts if getattr(self, part) is None]
        return f"looking at {left[0].replace('_', ' ')}" if left else ""

    @property
    def row_labels(self) -> list[str]:
        """The blocks' numbers, where those are enough to tell them apart; else short names."""
        names = [short_name(name, self.prefix) for name in self.grid.rows]
        numbers = [re.sub(r".*\.(?=\d+$)", "", name) for name in names]
        return [name or "–" for name in (numbers if len(set(numbers)) == len(names) else names)]

    @cached_property
    def planned(self) -> Mapping[str, str]:
        """What each fused group and KV cache runs in by the plan that was given."""
        if self.plan is None:
            return {}
        found: dict[str, str] = {group.name: group.precision for group in self.plan.groups}
        return found | {cache.name: cache.precision for cache in self.plan.kv_cache}

    @cached_property
    def _by_calibration(self) -> dict[str, dict[Site, Headroom]]:
        found: dict[str, dict[Site, Headroom]] = {}
        for row in self.headroom or ():
            found.setdefault(row.calibration, {})[row.site] = row
        return found

    def short(self, name: str) -> str:
        """A module's name as screens show it."""
        return name.removeprefix(self.prefix)


def opened(
    path: Path, profile: Profile, plan: Plan | None = None, plan_path: Path | None = None
) -> Snapshot:
    """What is known at once."""
    scores = Scores(profile) if profile.sensitivity else None
    caches = [layer.group for layer in profile.structure.kv_layers]
    names = [*scores.groups(), *caches] if scores else []
    return Snapshot(
        path=path,
        profile=profile,
        prefix=common_prefix(linear.name for linear in profile.structure.linears),
        grid=Grid.of(profile.structure),
        models=model_scores(profile, scores),
        scores={name: scores.candidates(name) for name in names} if scores else {},
        plan=plan,
        plan_path=plan_path,
    )


def filled(snapshot: Snapshot, stop: Callable[[], bool] = lambda: False) -> Iterator[Snapshot]:
    """One snapshot after the other, until all is known, or until `stop()` at the next record.
    What is known already is not read again.

    Reads every record of the profile: some 30 s of one of 80 blocks. Raises DamagedProfile.
    """
    with suppress(Stopped):
        yield from _filled(snapshot, stop)


class Stopped(Exception):
    """Nobody waits for what would be read next."""


class _Watched(Mapping[K, R]):
    """A mapping of a profile, read no further once `stop()`."""

    def __init__(self, mapping: Mapping[K, R], stop: Callable[[], bool]) -> None:
        self._mapping, self._stop = mapping, stop

    def __getitem__(self, key: K) -> R:
        if self._stop():
            raise Stopped
        return self._mapping[key]

    def __contains__(self, key: object) -> bool:
        return key in self._mapping

    def __iter__(self) -> Iterator[K]:
        return iter(self._mapping)

    def __len__(self) -> int:
        return len(self._mapping)


def _filled(snapshot: Snapshot, stop: Callable[[], bool]) -> Iterator[Snapshot]:
    whole = snapshot.profile
    profile = replace(
        whole, sites=_Watched(whole.sites, stop), weights=_Watched(whole.weights, stop)
    )
    every = [*profile.sites, *(Site(module, Role.WEIGHT) for module in profile.weights)]
    found = dict(snapshot.sites or {})
    left = [site for site in every if site not in found]
    for start in range(0, len(left) or 1, CHUNK):
        found |= {site: measure(profile, site) for site in left[start : start + CHUNK]}
        snapshot = replace(snapshot, sites=dict(found), measured=len(found) == len(every))
        yield snapshot
    parts: dict[str, Callable[[], object]] = {
        "groups": lambda: {finding.group: finding for finding in group_findings(profile)},
        "kv_cache": lambda: tuple(kv_cache(profile)),
        "scaling": lambda: scaling(profile),
        "headroom": lambda: tuple(tag_headroom(profile)) if len(profile.tags) > 1 else (),
        "convergence": lambda: tuple(convergence(profile)),
    }
    for name, part in parts.items():
        if getattr(snapshot, name) is None:
            snapshot = replace(snapshot, **{name: part()})  # type: ignore[arg-type]
            yield snapshot
