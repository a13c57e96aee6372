"""Profiles to browse, and the whole browser driven by keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from textual.pilot import Pilot
from textual.widgets import Static

from fp8scope.artefacts.plan import Plan
from fp8scope.core.choices import Choices, Kind, Row, Term
from fp8scope.core.gemms import units
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import FusedGroup, Linear, Structure
from fp8scope.errors import DamagedProfile
from fp8scope.plan.make import make_plan
from fp8scope.plan.settings import PlanSettings
from fp8scope.profile.reader import read_profile
from fp8scope.profile.record import Profile, SiteRecord
from fp8scope.report.snapshot import Snapshot, filled, opened
from fp8scope.tui.app import BrowseApp
from fp8scope.tui.layer import LayerScreen
from fp8scope.tui.overview import OverviewScreen
from fp8scope.tui.plan_screen import PlanScreen
from tests.plan import invented
from tests.profiles import expert_record, invented_values, scored, site_record, weight_record
from tests.tui.host import stands_still

NARROW, WIDE = (80, 24), (160, 50)
DEMO = Path(__file__).parents[2] / "profiles" / "demo.h5"
Steps = Callable[[BrowseApp, "Pilot[Any]"], Awaitable[None]]


@cache
def demo() -> Profile:
    """The recorded demo: four tags, scored, five findings."""
    return read_profile(DEMO)


@cache
def all_of_demo() -> Snapshot:
    """All that is known of it, so that only one test needs to wait until it is read."""
    return [*filled(opened(Path("profile.h5"), demo()))][-1]


def llama(blocks: int = 3, sequences: int = 6) -> Profile:
    """Invented, scored, two tags."""
    of = invented.profile(blocks, range(sequences))
    return invented.with_nats(of, invented.random_nats(3, sequences))


@cache
def all_of_llama(blocks: int) -> Snapshot:
    """Of as many blocks, all that is known."""
    return [*filled(opened(Path("profile.h5"), llama(blocks, 2)))][-1]


def mixture() -> Profile:
    """Two blocks, of which the second has a router and stacked experts in place of an MLP."""
    size, experts = 8, 4
    names = {
        "model.layers.0.mlp.up_proj": 0,
        "model.layers.0.mlp.down_proj": 0,
        "model.layers.1.mlp.gate": 0,
        "model.layers.1.mlp.experts.gate_up_proj": experts,
        "model.layers.1.mlp.experts.down_proj": experts,
    }
    linears = tuple(
        Linear(name, size, size, False, False, None, None, count) for name, count in names.items()
    )
    structure = Structure(
        family="mixtral",
        blocks=("model.layers.0", "model.layers.1"),
        linears=linears,
        groups=tuple(FusedGroup(name, (name,)) for name in names),
        folds=(),
        kv_layers=(),
    )
    sequences = [
        [(i % 2, invented_values(place, i, shape=(3 + i % 3, size))) for i in range(6)]
        for place in range(len(names))
    ]
    of = invented.profile(
        structure=structure,
        sites={
            Site(name, Role.INPUT): site_record(values, 2)
            for name, values in zip(names, sequences, strict=True)
        },
        aliases={},
        weights={
            name: weight_record(invented_values(9, place, shape=(size, size)))
            for place, name in enumerate(names)
        },
        experts={
            Site(name, Role.INPUT): expert_record(values, 2)
            for (name, count), values in zip(names.items(), sequences, strict=True)
            if count
        },
    )
    rows = Choices(("fp8_tensor", "fp8_token"), (0.5,)).rows(structure, units(structure))
    alone = [row for row in rows if row.kind is Kind.GROUP]
    return scored(of, {Row(Kind.GROUP, row.terms): _nats(row.terms[0]) for row in alone})


def _nats(term: Term) -> float:
    return len(term.group) / 1e4 if term.candidate == "fp8_tensor" else 1e-4


def without_blocks() -> Profile:
    """An unknown architecture: no blocks, each linear its own group."""
    of = invented.profile(2)
    names = [linear.name for linear in of.structure.linears]
    structure = replace(
        of.structure,
        family=None,
        blocks=(),
        groups=tuple(FusedGroup(name, (name,)) for name in names),
        folds=(),
        kv_layers=(),
    )
    return replace(of, structure=structure)


class Damaged(Mapping[Site, SiteRecord]):
    """Sites of which all but the first few cannot be read."""

    def __init__(self, sites: Mapping[Site, SiteRecord], good: int) -> None:
        self._sites, self._good = sites, set(list(sites)[:good])

    def __getitem__(self, site: Site) -> SiteRecord:
        if site in self._sites and site not in self._good:
            raise DamagedProfile("profile.h5 is truncated or corrupt (a bad [block])", "scan again")
        return self._sites[site]

    def __contains__(self, site: object) -> bool:
        return site in self._sites

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)


def planned(profile: Profile) -> Plan:
    """Some plan of it."""
    return make_plan(profile, PlanSettings())[0]


def browse(
    of: Profile | Snapshot,
    steps: Steps | Iterable[str],
    *,
    size: tuple[int, int] = NARROW,
    plan: Plan | None = None,
) -> BrowseApp:
    """Open the profile, wait until all of it is read, and press the keys or take the steps."""
    start = of if isinstance(of, Snapshot) else opened(Path("profile.h5"), of)

    async def run() -> BrowseApp:
        app = BrowseApp(lambda: replace(start, plan=plan))
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.started and not app.progress)
            await until(pilot, lambda: isinstance(app.screen, OverviewScreen) and not app.busy)
            await pilot.pause(0.05)
            if callable(steps):
                await steps(app, pilot)
            else:
                await pilot.press(*steps)
                await pilot.pause()
        return app

    return asyncio.run(run())


async def until(pilot: Pilot[Any], done: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it never came"
        await pilot.pause(0.02)


def overview(app: BrowseApp) -> OverviewScreen:
    """The overview, which must be on top."""
    assert isinstance(app.screen, OverviewScreen), app.screen
    return app.screen


def said(app: BrowseApp, where: str) -> str:
    """The text of a line of the overview, or of the status line."""
    return str(app.screen.query_one(where, Static).visual)


async def settled(app: BrowseApp, pilot: Pilot[Any]) -> None:
    """Until nothing is read, made or looked for any more, and all of it is shown."""
    await until(pilot, lambda: not app.busy and not any(w.is_running for w in app.workers))
    await until(pilot, lambda: _complete(app))
    await app.workers.wait_for_complete()
    await stands_still(pilot)


def _complete(app: BrowseApp) -> bool:
    """What a screen reads or makes for itself, it has."""
    for screen in app.screen_stack:
        if isinstance(screen, LayerScreen) and screen.study is None:
            return False
        if isinstance(screen, PlanScreen) and not screen._refused:
            living = app.living
            if living is None or screen.busy or not living.reasons:
                return False
            if screen.has_class("-wide") and not screen._frontier.get(living.draft.cached):
                return False
    return True
