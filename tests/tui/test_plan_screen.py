"""The plan's screen, driven key by key in a small terminal and in a wide one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import read_factors, read_plan, write_plan
from fp8scope.errors import BadInput, CannotWrite
from fp8scope.export.registry import names
from fp8scope.plan.make import make_plan
from fp8scope.plan.settings import PlanSettings
from fp8scope.profile.record import Profile
from fp8scope.report.snapshot import opened
from fp8scope.tui.app import BrowseApp
from fp8scope.tui.living import Living
from fp8scope.tui.plan_dialogs import ExportDialog, LineDialog, YesNo
from fp8scope.tui.plan_rows import Rows
from fp8scope.tui.plan_screen import PlanScreen
from fp8scope.tui.screen import Browser
from fp8scope.tui.sections import _reason
from tests.plan import invented
from tests.plan.invented import group
from tests.plan.test_plan import small
from tests.tui.host import screen_text

DOWN, UP = group(0, "down"), group(0, "gate_up")
SMALL, WIDE = (80, 24), (160, 50)
BOTH = pytest.mark.parametrize("size", [SMALL, WIDE], ids=["80x24", "160x50"])


class Host(BrowseApp):
    """Records what would open, and what went wrong."""

    def __init__(self, profile: Profile, plan: Plan | None, path: Path | None) -> None:
        super().__init__(lambda: opened(Path("invented.h5"), profile, plan, path))
        self.layers: list[str] = []
        self.problems: list[str] = []

    def open_layer(self, module: str) -> None:
        self.layers.append(module)

    def problem(self, sentence: str) -> None:
        self.problems.append(sentence)


Driven = Callable[["Driver"], Awaitable[None]]


class Driver:
    def __init__(self, pilot: Pilot[None], app: Host) -> None:
        self.pilot, self.app = pilot, app

    async def until(self, holds: Callable[[], object]) -> None:
        for _ in range(600):
            if holds():
                return
            await self.pilot.pause(0.02)
        raise AssertionError(self.said)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def type(self, text: str) -> None:
        self.app.screen.query_one(Input).value = text
        await self.press("enter")

    @property
    def screen(self) -> PlanScreen:
        found = self.app.screen
        assert isinstance(found, PlanScreen)
        return found

    @property
    def living(self) -> Living:
        assert self.app.living is not None
        return self.app.living

    def text(self, name: str) -> str:
        stack = [one for one in self.app.screen_stack if isinstance(one, PlanScreen)]
        return str(stack[0].query_one(f"#{name}", Static).content)

    @property
    def said(self) -> str:
        return self.text("said")

    def changed(self) -> bool:
        return self.living.changed

    def line(self, number: int) -> str:
        return self.screen.rows.render_line(number).text

    async def choose(self, consumer: str) -> None:
        """In the export dialog."""
        await self.until(lambda: isinstance(self.app.screen, ExportDialog))
        choices = self.app.screen.query_one(OptionList)
        choices.highlighted = list(names()).index(consumer)
        await self.press("enter")

    async def to(self, name: str) -> None:
        rows = self.screen.rows
        rows.move_to([row.name for row in rows._lines].index(name))
        await self.pilot.pause()


def drive(
    do: Driven,
    size: tuple[int, int] = SMALL,
    profile: Profile | None = None,
    plan: Plan | None = None,
    path: Path | None = None,
) -> None:
    async def run() -> None:
        app = Host(profile or small(), plan, path)
        async with app.run_test(size=size) as pilot:
            own = Driver(pilot, app)
            await own.until(lambda: hasattr(app, "snapshot") and app.current_mode == "overview")
            await own.press("3")
            await own.until(lambda: isinstance(app.screen, PlanScreen))
            await do(own)

    asyncio.run(run())


def planned(do: Driven, size: tuple[int, int] = SMALL) -> None:
    """With the plan of `small` under 0.02 nats."""

    async def ready(own: Driver) -> None:
        await own.until(lambda: own.app.living is not None and own.living.reasons)
        await do(own)

    drive(ready, size, plan=make_plan(small(), PlanSettings(max_kl=0.02))[0])


@BOTH
def test_what_is_shown_is_what_the_plan_says(size: tuple[int, int]) -> None:
    async def look(own: Driver) -> None:
        plan = own.living.draft.plan()[0]
        head = own.text("head")
        assert f"{plan.predicted.effective_bits:.2f} bits" in head
        assert "of 0.020" in head
        assert all(tag in head for tag in plan.predicted.tags)
        rows = {row.name: row for row in own.screen._shown.values()}
        for one in plan.groups:
            row = rows[one.name]
            assert row.precision == one.precision
            assert row.kl == pytest.approx(one.evidence.kl, rel=1e-12, abs=1e-18)
            assert dict(row.candidates) == one.evidence.candidates
            assert row.bf16_us == one.evidence.bf16_time_us
            assert row.reason == one.reason
        assert "runs in" in own.line(0)
        assert "layers.0.self_attn.qkv" in own.line(1)
        assert "T tensor" in own.line(1)
        wide = size == WIDE
        assert own.screen.query_one("#side").display == wide
        if wide:
            await own.until(lambda: "◂ now" in own.text("frontier"))
            assert len(own.text("frontier").splitlines()) > 3

    planned(look, size)


@BOTH
def test_every_key_that_changes(size: tuple[int, int]) -> None:
    async def change(own: Driver) -> None:
        draft = own.living.draft
        await own.to(DOWN)
        keys = {"t": "fp8_tensor", "k": "fp8_token", "B": "fp8_block", "s": "fp8_smooth"}
        for key, precision in ({**keys, "b": "bf16"}).items():
            await own.press(key)
            assert draft.precision(DOWN) == precision, own.said
            assert own.screen._shown[DOWN].precision == precision
            assert "→" in own.said
            number = own.screen.rows.cursor + 1 - int(own.screen.rows.scroll_offset.y)
            assert own.line(number).startswith("•")
        assert "and with it layers.0.mlp.gate_up (without factors" in own.said
        assert "plan not saved" in str(own.screen.query_one("StatusLine", Static).content)
        await own.press("space")
        assert draft.precision(DOWN) == "fp8_tensor"
        await own.press("u")
        assert draft.precision(DOWN) == "bf16"
        assert own.said.startswith("undone: ")
        await own.press("ctrl+r")
        assert draft.precision(DOWN) == "fp8_tensor"
        assert own.said.startswith("done again: ")
        await own.press("p")
        assert draft.step.pins == frozenset()
        await own.press("p")
        assert draft.step.pins == {DOWN}
        await own.press("v")
        assert "KV FP8" in own.text("head")
        await own.press("v")
        assert "KV BF16" in own.text("head")
        assert "of 0.020, over" in own.text("head")
        await own.press(*12 * "u")
        assert own.said == "there is nothing to undo"
        assert not own.changed()
        assert own.app.problems == []

    planned(change, size)


def test_the_row_of_the_caches() -> None:
    async def change(own: Driver) -> None:
        await own.press("end")
        assert own.screen.rows.key == "kv_cache"
        assert own.screen.named == "model.layers.0.self_attn"
        for key, cached in (("space", True), ("b", False), ("t", True)):
            await own.press(key)
            assert own.living.draft.cached == cached
        await own.press("s")
        assert "a KV cache runs in FP8 per tensor or in BF16" in own.app.problems[0]
        await own.press("p")
        assert "KV cache stays" in own.app.problems[1]

    planned(change)


def test_refusals_are_told_and_change_nothing() -> None:
    async def change(own: Driver) -> None:
        before = own.living.draft.step
        await own.to("lm_head")
        for key in ("space", "t", "s", "p"):
            await own.press(key)
        assert len(own.app.problems) == 4
        assert all("stays in BF16 unless" in said for said in own.app.problems)
        assert own.living.draft.step is before

    planned(change)


def test_moving_opening_ordering_finding() -> None:
    async def move(own: Driver) -> None:
        rows = own.screen.rows
        await own.press("down", "down", "up")
        assert rows.cursor == 1
        await own.press("end")
        assert rows.cursor == len(own.screen._shown) - 1
        await own.press("pageup", "pagedown", "home", "enter")
        assert own.app.layers == [group(0, "qkv")]
        await own.press("right", "left")
        shown = own.screen._shown.values()
        await own.press("o", "home")
        assert own.said == "rows by KL as planned"
        assert own.screen._shown[str(rows.key)].kl == max(row.kl for row in shown)
        await own.press("o", "home")
        assert rows.key == DOWN  # 0.2 nats in FP8 per tensor
        await own.press("o", "home")
        saved = max(row.saved_us for row in shown)
        assert own.screen._shown[str(rows.key)].saved_us == saved
        await own.press("o", "o")
        await own.press("slash", *"down")
        assert "layers.0.mlp.down" in own.line(1) + own.line(2)
        await own.press("enter")
        await own.press("b", "down", "b")
        both = (DOWN, group(1, "down"))
        assert {own.living.precision(name) for name in both} == {"bf16"}  # the rows stay in place
        assert len(rows._lines) == 2
        await own.press("escape")  # in the table, too
        assert len(own.screen._shown) == len(rows._lines)
        await own.press("slash", *"up", "escape")
        assert len(own.screen._shown) == len(rows._lines)
        await own.press("slash", "enter")
        assert not own.screen.query_one("#find").has_class("-open")
        await own.pilot.click(rows, offset=(5, 3))
        assert rows.cursor == 2
        await own.press("c")
        assert own.app.clipboard == rows.key

    planned(move)


def test_solving_again() -> None:
    async def solve(own: Driver) -> None:
        await own.to(group(0, "qkv"))
        await own.press("B", "R")
        await own.until(lambda: isinstance(own.app.screen, LineDialog))
        await own.type("0.01")
        await own.until(lambda: own.said.startswith("solved for at most 0.010"))
        assert own.living.precision(group(0, "qkv")) == "fp8_block"
        assert own.living.draft.objective.value == 0.01
        await own.press("R", "tab", "space", "shift+tab", "enter")
        await own.until(lambda: own.said.startswith("solved for at most") and "(bal" in own.said)
        assert own.living.precision(group(0, "qkv")) != "fp8_block"
        await own.press("R")
        await own.type("nonsense")
        await own.until(lambda: own.app.problems)
        assert "is no budget" in own.app.problems[0]
        await own.press("R", "escape", "u", "u", "u")
        assert not own.changed()

    planned(solve)


def test_what_was_solved_for_is_not_said_to_be_changed() -> None:
    snapshot = opened(Path("invented.h5"), small())
    living = Living.of(snapshot)
    browser = cast(Browser, SimpleNamespace(snapshot=snapshot, living=living))
    rows = Rows(snapshot, living)
    assert _reason(browser, DOWN) == [f"The plan: {living.precision(DOWN)}."]
    living.plan()
    assert _reason(browser, DOWN) == [f"The plan: {living.reasons[DOWN][1]}."]
    before = {row.name: row.precision for row in rows.all()}
    living.draft.solve("0.5")
    moved = [row for row in rows.all() if row.precision != before[row.name]]
    name = moved[0].name
    assert {row.reason for row in moved} == {"as solved"}
    assert _reason(browser, name) == [f"The plan: {living.precision(name)}, changed here."]
    living.plan()
    living.draft.steps.undo()
    again = {row.name: row for row in rows.all()}
    assert again[name].reason == "as solved"
    known = living.precision(name), living.reasons[name][0]
    living.draft.set(name, next(one for one in living.draft.options(name) if one not in known))
    assert {row.name: row for row in rows.all()}[name].reason == "set by hand"


def test_saving(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan, factors = make_plan(small(), PlanSettings(max_kl=0.02))
    plan = write_plan(plan, factors, path)

    async def save(own: Driver) -> None:
        await own.until(lambda: own.app.living is not None)
        await own.to(DOWN)
        await own.press("b", "w")
        assert own.app.screen.query_one(Input).value == str(path)
        await own.press("enter")
        await own.until(lambda: isinstance(own.app.screen, YesNo))
        await own.press("n")
        assert read_plan(path) == plan
        assert own.changed()
        await own.press("w", "enter")
        await own.until(lambda: isinstance(own.app.screen, YesNo))
        await own.press("y")
        await own.until(lambda: own.said == f"saved {path}")
        assert not own.changed()
        saved = read_plan(path)
        assert {one.name: one.precision for one in saved.groups}[DOWN] == "bf16"
        assert read_factors(saved, path).keys() == {fold.key for fold in saved.folds}
        await own.press("s", "w")
        await own.type(str(tmp_path / "none" / "plan.json"))
        await own.until(lambda: own.app.problems)
        assert "there is no folder" in own.app.problems[0]
        await own.press("w")
        await own.type("~nobody.of-that-name/plan.json")
        await own.until(lambda: len(own.app.problems) == 2)
        assert "there is no folder" in own.app.problems[1]
        await own.press("w")
        await own.type(str(tmp_path / "other.json"))
        await own.until(lambda: own.said.startswith("saved"))
        assert set(read_plan(tmp_path / "other.json").terms()) == set(own.living.draft.step.terms)
        assert own.living.path == tmp_path / "other.json"

    drive(save, plan=plan, path=path)


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise CannotWrite("cannot write plan.json (0.1 MB): No space left on device", "make room")

    async def save(own: Driver) -> None:
        await own.press("b", "w")
        monkeypatch.setattr("fp8scope.tui.living.write_plan", full)
        await own.type(str(tmp_path / "plan.json"))
        await own.until(lambda: own.app.problems)
        assert "No space left" in own.app.problems[0]
        assert own.changed()
        await own.press("u")
        assert not own.changed()

    planned(save)


def test_exporting(tmp_path: Path) -> None:
    async def export(own: Driver) -> None:
        await own.to(DOWN)
        await own.press("t", "x")
        await own.choose("hf-quant-config")
        assert own.app.screen.query_one(Input).value == "hf_quant_config.json"
        path = tmp_path / "hf_quant_config.json"
        await own.type(str(path))
        await own.until(lambda: own.said.startswith(f"wrote {path}: metadata"))
        assert "lm_head" in json.loads(path.read_text())["quantization"]["exclude_modules"]
        await own.press("x", "escape")
        await own.to(DOWN)
        await own.press("B", "x")
        await own.choose("transformers")
        await own.type(str(tmp_path / "mixed.json"))
        await own.until(lambda: own.app.problems)
        assert "transformers quantizes per block or per token" in own.app.problems[0]
        assert not (tmp_path / "mixed.json").exists()

    planned(export)


@BOTH
def test_a_profile_without_scores_says_why_there_is_no_plan(size: tuple[int, int]) -> None:
    async def look(own: Driver) -> None:
        assert "There is no plan." in own.text("head")
        assert "Scan again without --sensitivity none" in own.text("head")
        for key in ("t", "space", "u", "ctrl+r", "R", "p", "v", "w", "x", "o", "enter"):
            await own.press(key)
        assert own.app.living is None
        assert isinstance(own.app.screen, PlanScreen)

    drive(look, size, profile=invented.profile())


def test_a_plan_that_does_not_fit_is_told() -> None:
    poorer = invented.with_nats(invented.profile(), lambda _: 0.001, ("fp8_tensor",))
    plan = make_plan(small(), PlanSettings(max_kl=0.02))[0]

    async def look(own: Driver) -> None:
        await own.until(lambda: "There is no plan." in own.text("head"))
        assert "asks for what was not scored" in own.text("head")

    drive(look, profile=poorer, plan=plan)


def test_words_of_a_refusal_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BadInput("layers.0[/b] was not scored [red]", "scan [again")

    monkeypatch.setattr(Living, "of", refuse)

    async def told(own: Driver) -> None:
        await own.until(lambda: "no plan" in own.text("head"))
        assert "layers.0[/b] was not scored [red]" in screen_text(own.app)

    drive(told)


def test_reasons_of_a_file_obey_no_terminal() -> None:
    plan = make_plan(small(), PlanSettings(max_kl=0.02))[0]
    groups = tuple(g.model_copy(update={"reason": "\x1b[2J[red]why"}) for g in plan.groups)

    async def look(own: Driver) -> None:
        await own.until(lambda: own.app.living is not None)
        assert "·[2J[red]why" in own.line(1)
        assert "\x1b" not in own.line(1)
        assert "[red]why" in own.text("about")

    drive(look, (200, 24), plan=plan.model_copy(update={"groups": groups}))


def test_dark_and_light() -> None:
    async def look(own: Driver) -> None:
        def style() -> object:
            return [segment.style for segment in own.screen.rows.render_line(1)]

        dark = style()
        await own.press("d")
        assert style() != dark

    planned(look)


def test_the_plan_goes_where_it_came_from_or_to_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    snapshot = opened(Path("invented.h5"), small())
    own = Living.of(snapshot)
    own.draft.set(DOWN, "bf16")
    assert own.save() == Path("plan.json")
    assert own.save() == Path("plan.json")
    other = Living.of(replace(snapshot, plan=read_plan(Path("plan.json"))))
    assert other.save() == Path("plan-2.json")
