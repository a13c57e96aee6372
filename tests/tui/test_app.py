"""The frame: every key of it, reading in the background, help, the palette, leaving."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from textual.command import CommandPalette
from textual.pilot import Pilot
from textual.screen import ModalScreen
from textual.widgets import Static

from fp8scope.analyze.measures import measure
from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import read_plan, write_plan
from fp8scope.core.structure import FusedGroup
from fp8scope.errors import CannotWrite, NotAProfile
from fp8scope.report import snapshot as snapshots
from fp8scope.report.snapshot import filled, opened
from fp8scope.tui.app import BrowseApp
from fp8scope.tui.help import HelpScreen
from fp8scope.tui.layer import LayerScreen
from fp8scope.tui.living import Living
from fp8scope.tui.overview import OverviewScreen
from fp8scope.tui.quitting import QuitScreen
from tests.tui.browsing import (
    NARROW,
    WIDE,
    Damaged,
    all_of_demo,
    all_of_llama,
    browse,
    llama,
    overview,
    said,
    until,
    without_blocks,
)
from tests.tui.host import screen_text


def change(app: BrowseApp) -> Living:
    """A plan with a change that is not saved."""
    living = Living.of(app.snapshot)
    living.draft.set("model.layers.0.mlp.down", "bf16")
    assert living.changed
    app.living = living
    return living


def gone(app: BrowseApp) -> bool:
    return app._exit or not app.is_running


def notices(app: BrowseApp) -> list[str]:
    return [notice.message for notice in app._notifications]


@pytest.mark.parametrize("size", [NARROW, WIDE])
def test_screens_by_number_and_back(size: tuple[int, int]) -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        for key, mode in (("2", "sites"), ("3", "plan"), ("1", "overview"), ("3", "plan")):
            await pilot.press(key)
            await pilot.pause(0.1)
            assert app.current_mode == mode
            assert f"{key} {mode}" in screen_text(app).splitlines()[-1]
        await pilot.press("1", "escape")
        assert isinstance(app.screen, OverviewScreen)
        await pilot.press("right", "enter")
        await pilot.pause(0.1)
        assert isinstance(app.screen, LayerScreen)
        await pilot.press("escape")
        await pilot.pause()
        assert overview(app).heat.cursor == (0, 1)
        await pilot.press("enter", "1")  # what lies on top of a screen goes
        await pilot.pause(0.1)
        assert isinstance(app.screen, OverviewScreen)
        await pilot.press("q")

    app = browse(all_of_llama(20), steps, size=size)
    assert app.refusal is None
    assert not app.is_running


def test_screens_by_mouse() -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        line = screen_text(app).splitlines()[-1]
        await pilot.click(offset=(line.index("sites"), 23))
        await pilot.pause(0.1)
        assert app.current_mode == "sites"
        await pilot.click(offset=(line.index("overview"), 23))
        await pilot.pause(0.1)
        assert app.current_mode == "overview"
        await pilot.click(offset=(line.index("help"), 23))
        await pilot.pause(0.1)
        assert isinstance(app.screen, HelpScreen)

    browse(all_of_llama(20), steps)


def test_copy_the_name() -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        await pilot.press("down", "c")
        assert app.clipboard == "model.layers.1.self_attn.q"
        assert "model.layers.1.self_attn.q" in notices(app)

    browse(all_of_llama(20), steps)


def test_dark_and_light() -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        assert app.theme == "fp8scope-dark"
        dark = app.export_screenshot()
        await pilot.press("d")
        await pilot.pause()
        assert app.theme == "fp8scope-light"
        assert app.export_screenshot() != dark
        await pilot.press("d")
        assert app.theme == "fp8scope-dark"

    browse(all_of_llama(20), steps)


@pytest.mark.parametrize("size", [NARROW, WIDE])
def test_help_has_every_key(size: tuple[int, int]) -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        active = app.screen.active_bindings.values()
        await pilot.press("question_mark")
        await pilot.pause(0.1)
        assert isinstance(app.screen, HelpScreen)
        console = Console(width=90, file=io.StringIO())
        console.print(app.screen.query_one("#keys", Static).content)
        rows = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
        for one in active:
            key, words = app.get_key_display(one.binding), one.binding.description.lower().split()
            if not one.binding.system:
                assert any(key in row and row[-len(words) :] == words for row in rows), key
        assert len(rows) > 20
        assert "next measure" in screen_text(app)
        assert len({key for row in rows for key in row}) > 30
        await pilot.press("end")
        await pilot.pause(0.3)
        assert "planned precision" in screen_text(app)
        await pilot.press("escape")
        assert isinstance(app.screen, OverviewScreen)

    browse(all_of_demo(), steps, size=size)


@pytest.mark.parametrize("key", ["ctrl+p", "slash"])
def test_the_palette_finds_a_module(key: str) -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        await pilot.press(key)
        await pilot.pause(0.1)
        assert isinstance(app.screen, CommandPalette)
        await pilot.press(*"down", "space", *"s.17")
        await until(pilot, lambda: "model.layers.17.mlp.down" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, LayerScreen))
        assert app.screen.named == "model.layers.17.mlp.down"  # type: ignore[attr-defined]

    browse(all_of_llama(20), steps)


def test_names_are_no_markup() -> None:
    """Of modules, before anything is typed and among what is found."""
    of = without_blocks()
    linears = tuple(replace(one, name=f"[/b]{one.name}[red]") for one in of.structure.linears)
    groups = tuple(FusedGroup(one.name, (one.name,)) for one in linears)
    structure = replace(of.structure, linears=linears, groups=groups)
    weights = {f"[/b]{name}[red]": record for name, record in of.weights.items()}
    name = linears[0].name

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        await pilot.press("slash")
        await until(pilot, lambda: name in screen_text(app))
        await pilot.press(*"q[red]")
        await until(pilot, lambda: linears[1].name not in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, LayerScreen))
        await pilot.pause(0.3)
        assert name.removeprefix(app.snapshot.prefix) in screen_text(app)

    browse(replace(of, structure=structure, weights=weights, sites={}, aliases={}), steps)


def test_a_profile_without_a_site_is_read_at_once() -> None:
    *_, last = filled(opened(Path("profile.h5"), replace(llama(), sites={}, weights={})))
    assert last.measured
    assert last.unread == ""


@pytest.mark.parametrize(
    ("typed", "done"),
    [
        ("plan", lambda app: app.current_mode == "plan"),
        ("next measure", lambda app: app.screen.measure.name == "KL in the cheapest FP8"),
        ("copy the name", lambda app: app.clipboard == "model.layers.0.self_attn.q"),
        ("dark or light", lambda app: app.theme == "fp8scope-light"),
        ("help", lambda app: isinstance(app.screen, HelpScreen)),
        ("quit", gone),
    ],
)
def test_the_palette_does_what_keys_do(typed: str, done: Callable[[BrowseApp], bool]) -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        await pilot.press("ctrl+p")
        await pilot.press(
            *(" ".join(typed)).replace("   ", "\0").replace(" ", "").replace("\0", " ")
        )
        await until(pilot, lambda: typed.rsplit(maxsplit=1)[-1] in screen_text(app).lower())
        await pilot.pause(0.3)
        await pilot.press("enter")
        await until(pilot, lambda: done(app))

    browse(all_of_llama(20), steps)


def test_leaving_with_changes_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        change(app)
        await pilot.press("2", "1")
        await pilot.pause(0.1)
        assert "plan not saved" in screen_text(app).splitlines()[-1]
        assert overview(app)._measures()[-1].name == "planned precision"
        for leave, stay in (("q", "c"), ("q", "escape"), ("ctrl+q", "q")):
            await pilot.press(leave)
            await pilot.pause(0.1)
            assert isinstance(app.screen, QuitScreen)
            assert "not saved" in screen_text(app)
            assert "Save writes plan.json" in screen_text(app)
            await pilot.press(stay)
            await pilot.pause()
            assert isinstance(app.screen, OverviewScreen)
        await pilot.press("q")
        await pilot.pause(0.1)
        await pilot.press("right", "right", "enter")  # the button that cancels
        await pilot.pause()
        assert isinstance(app.screen, OverviewScreen)
        assert app.is_running
        assert not list(tmp_path.iterdir())
        await pilot.press("q", "s")
        await until(pilot, lambda: gone(app))

    browse(all_of_llama(20), steps)
    plan = read_plan(tmp_path / "plan.json")
    precision = {group.name: group.precision for group in plan.groups}
    assert precision["model.layers.0.mlp.down"] == "bf16"


def test_what_is_changed_while_the_plan_is_saved_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write = write_plan

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        living = change(app)

        def slowly(*what: Any) -> Plan:
            living.draft.next("model.layers.1.mlp.down")  # as a key would by then
            return write(*what)

        monkeypatch.setattr("fp8scope.tui.living.write_plan", slowly)
        await pilot.press("q", "s")
        await until(pilot, (tmp_path / "plan.json").exists)
        await until(pilot, lambda: isinstance(app.screen, QuitScreen))
        assert not gone(app)
        assert living.changed

    browse(all_of_llama(20), steps)


def test_a_plan_that_cannot_be_saved_keeps_you_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise CannotWrite("cannot write plan.json: No space left on device [disk]", "free some")

    monkeypatch.setattr("fp8scope.tui.living.write_plan", full)

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        change(app)
        await pilot.press("q", "s")
        await until(pilot, lambda: len(notices(app)) > 1)
        assert any("No space left on device [disk]" in notice for notice in notices(app))
        assert app.is_running
        assert app.living
        assert app.living.changed

    browse(all_of_llama(20), steps)


def test_leaving_without_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        change(app)
        await pilot.press("q", "d")
        await until(pilot, lambda: gone(app))

    browse(all_of_llama(20), steps)
    assert not list(tmp_path.iterdir())


def test_what_is_read_is_shown_bit_by_bit() -> None:
    profile = llama(10, 2)

    async def run() -> None:
        app = BrowseApp(lambda: opened(Path("profile.h5"), profile))
        async with app.run_test(size=NARROW) as pilot:
            seen: set[str] = set()
            while not app.started or app.progress or app.busy:
                if app.started and isinstance(app.screen, OverviewScreen):
                    seen |= {line[28:51].strip() for line in screen_text(app).splitlines()[-1:]}
                await pilot.pause(0.02)
            await pilot.pause()
            assert any("of 132 sites rea" in words for words in seen), seen
            assert app.snapshot.convergence is not None
            assert "should not run" in said(app, "#verdict")
            line = screen_text(app).splitlines()[-1]
            assert "read" not in line
            assert "looking" not in line

    asyncio.run(run())


def test_a_damaged_profile_says_so_and_keeps_what_is_known() -> None:
    profile = llama(4)
    damaged = replace(profile, sites=Damaged(profile.sites, 3))

    async def run() -> None:
        app = BrowseApp(lambda: opened(Path("profile.h5"), damaged))
        async with app.run_test(size=NARROW) as pilot:
            await until(pilot, lambda: bool(notices(app)))
            assert notices(app) == [
                "profile.h5 is truncated or corrupt (a bad [block]) → scan again"
            ]
            await until(pilot, lambda: isinstance(app.screen, OverviewScreen))
            await pilot.pause(0.1)
            assert not app.progress
            assert "not all could be read" in screen_text(app).splitlines()[-1]
            await pilot.press("down", "m", "m")
            assert said(app, "#detail").endswith("body SQNR: not known, or not yet")
            await pilot.press("1", "2", "3", "1", "question_mark")
            await pilot.pause()
            assert app.is_running

    asyncio.run(run())


def test_a_profile_that_cannot_be_opened_ends_it() -> None:
    refusal = NotAProfile("notes.txt is not a profile", "give another")

    def start() -> snapshots.Snapshot:
        raise refusal

    async def run() -> BrowseApp:
        app = BrowseApp(start)
        async with app.run_test(size=NARROW) as pilot:
            await pilot.press("2", "slash", "question_mark", "c", "enter")  # nothing to show yet
            await until(pilot, lambda: app.refusal is not None)
        return app

    app = asyncio.run(run())
    assert app.refusal is refusal


def test_leaving_stops_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    profile, held = llama(4), threading.Event()
    reads = 0

    def slow(*args: Any) -> Any:
        nonlocal reads
        reads += 1
        profile_ = args[0]
        held.wait(0.05)
        return measure(profile_, args[1])

    monkeypatch.setattr(snapshots, "measure", slow)

    async def run() -> None:
        app = BrowseApp(lambda: opened(Path("profile.h5"), profile))
        async with app.run_test(size=NARROW) as pilot:
            await until(pilot, lambda: reads > 2)
            await pilot.press("q")

    asyncio.run(run())  # waits for the thread
    total = len(profile.sites) + len(profile.weights)
    assert 2 < reads < total / 2


def test_a_fault_of_ours_is_kept_for_the_command_line() -> None:
    async def run() -> None:
        async with app.run_test(size=NARROW) as pilot:
            await until(pilot, lambda: app.started)
            app.call_later(lambda: 1 / 0)
            await pilot.pause(0.2)

    app = BrowseApp(all_of_demo)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())
    assert isinstance(app.refusal, ZeroDivisionError)
    assert not app._exit_renderables  # no traceback on the terminal


def test_modal_screens_hold_the_keys() -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        for key in ("question_mark", "v"):
            await pilot.press(key)
            await pilot.pause(0.1)
            await pilot.press("2", "n")
            assert isinstance(app.screen, ModalScreen)
            assert app.current_mode == "overview"
            await pilot.press("q")
            assert isinstance(app.screen, OverviewScreen)

    browse(all_of_llama(20), steps)


def test_a_fault_while_a_layer_is_read_costs_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: Any) -> None:
        raise ZeroDivisionError("division [by] zero")

    monkeypatch.setattr("fp8scope.tui.layer.study", fault)

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        change(app)
        await pilot.press("enter")
        await until(pilot, lambda: any("[by]" in notice for notice in notices(app)))
        await pilot.pause(0.1)
        assert app.is_running
        assert app.refusal is None

    browse(all_of_llama(20), steps)
