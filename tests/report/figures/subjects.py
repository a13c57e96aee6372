"""Snapshots to draw, every figure of one, and the strings that a figure is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from fp8scope.analyze.layer import layer_findings
from fp8scope.core.choices import Row
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import Structure
from fp8scope.profile.record import Profile
from fp8scope.report.document.blocks import Figure
from fp8scope.report.figures.convergence import convergence
from fp8scope.report.figures.costs import costs, worst_groups
from fp8scope.report.figures.frontier import frontier
from fp8scope.report.figures.headroom import headroom_matrix, site_headroom
from fp8scope.report.figures.heatmap import heatmap
from fp8scope.report.figures.magnitudes import magnitudes
from fp8scope.report.snapshot import Snapshot, filled, opened
from tests.tui.browsing import all_of_demo, demo, llama, planned

EVIL = "<img src=x onerror=alert(1)>%{evil}</script>\n\u202e'\"&amp; "


def whole(profile: Profile) -> Snapshot:
    """All that is known of it."""
    return [*filled(opened(Path("profile.h5"), profile))][-1]


@cache
def demo_with_plan() -> Snapshot:
    return replace(all_of_demo(), plan=planned(demo()))


@cache
def hostile() -> Snapshot:
    """Module names and tags that a careless drawing would obey; no plan can be made of it."""
    return whole(renamed(llama(2, 24)))


@cache
def hostile_without_blocks() -> Snapshot:
    """The same where each row of the heatmap is a module."""
    of = renamed(llama(1))
    structure = replace(of.structure, family=None, blocks=(), folds=(), kv_layers=(), groups=())
    return whole(replace(of, structure=structure, sensitivity=None))


def renamed(of: Profile) -> Profile:
    """`self_attn` and `mlp` in every name, and the tags, are hostile."""

    def name(text: str) -> str:
        return text.replace("self_attn", f"{EVIL}a").replace("mlp", f"{EVIL}m")

    def plain(value: Any) -> Any:
        """Of JSON values."""
        if isinstance(value, str):
            return name(value)
        if isinstance(value, Mapping):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value

    def site(of: Site) -> Site:
        return Site(name(of.module), of.role)

    scores = of.sensitivity
    if scores is not None:
        rows = tuple(Row.from_json(plain(row.to_json())) for row in scores.rows)
        scores = replace(scores, rows=rows)
    return replace(
        of,
        structure=Structure.from_json(plain(of.structure.to_json())),
        tags=tuple(f"{tag}{EVIL}" for tag in of.tags),
        sites={site(key): record for key, record in of.sites.items()},
        aliases={site(key): site(owner) for key, owner in of.aliases.items()},
        weights={name(key): record for key, record in of.weights.items()},
        sensitivity=scores,
    )


def every_figure(snapshot: Snapshot) -> list[Figure]:
    """All that are drawn of a profile, those of one layer for one."""
    profile = snapshot.profile
    module = next(linear.name for linear in profile.structure.linears if "down" in linear.name)
    found = layer_findings(profile, module)
    sites = [profile.owner(Site(module, Role.INPUT)), Site(module, Role.WEIGHT)]
    sites += [Site(cache.attention, Role.K) for cache in profile.structure.kv_layers[:1]]
    drawn = [
        heatmap(snapshot),
        worst_groups(snapshot),
        headroom_matrix(snapshot),
        convergence(snapshot.convergence or ()),
        magnitudes(profile, sites),
        costs(found.scores, found.pairs, 0.01) if found.scores else None,
        site_headroom(found.headroom),
        frontier(snapshot.plan) if snapshot.plan else None,
    ]
    return [figure for figure in drawn if figure is not None]


def size(figure: Figure) -> int:
    """Bytes of its JSON."""
    views = [{"data": view.data, "layout": view.layout} for view in figure.views]
    return len(json.dumps(views, separators=(",", ":"), ensure_ascii=False).encode())


def strings(part: Any, under: str = "") -> Iterator[tuple[str, str]]:
    """(key, string) of every string in a drawing."""
    if isinstance(part, str):
        yield under, part
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from strings(value, str(key))
    elif isinstance(part, list | tuple):
        for value in part:
            yield from strings(value, under)
