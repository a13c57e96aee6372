"""The table of sites: every key, order, filter and search; the cursor stays on its site."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from fp8scope.analyze.measures import SiteMeasures, measure_sites
from fp8scope.analyze.verdict import in_order
from fp8scope.core.sites import Role, Site
from fp8scope.core.words import decibel, number, percent, times
from fp8scope.profile.record import Profile
from fp8scope.report.rows import site_row
from fp8scope.report.snapshot import Snapshot, filled, opened
from fp8scope.tui.site_rows import ROLE_FILTERS, View, by_name, columns
from fp8scope.tui.site_table import Header, SiteTable
from fp8scope.tui.sites import SitesScreen
from tests.analyze.sites import gaussian, of_modules
from tests.tui.host import NARROW, WIDE, Host, drive, screen_text, snapshot_of
from tests.tui.subjects import CONTROLS, hostile, llama

SIZES = pytest.mark.parametrize("size", [NARROW, WIDE])
CAST = ROLE_FILTERS["what FP8 casts"]


def table(host: Host) -> SiteTable:
    return cast(SitesScreen, host.shown).table


def sites(host: Host) -> list[Site]:
    return [row.site for row in table(host).rows]


def state(host: Host) -> str:
    return str(host.shown.query_one("#state", Static).content)


def many(profile: Profile, count: int) -> Snapshot:
    """As many rows of invented modules in 80 blocks."""
    rows = measure_sites(profile)
    found: dict[Site, SiteMeasures] = {}
    for i in range(count):
        row = rows[i % len(rows)]
        site = Site(f"model.layers.{i % 80}.mlp.n{i}_proj", row.site.role)
        found[site] = replace(row, site=site, amax=row.amax + i, shared_by=(site.module,))
    return replace(snapshot_of(profile), sites=found)


@SIZES
def test_every_cell_is_that_of_the_json(size: tuple[int, int]) -> None:
    profile = llama()
    rows = [site_row(row) for row in in_order(measure_sites(profile), roles=CAST)]

    async def steps(pilot: Pilot[Any], host: Host) -> None:
        assert [(s.module, str(s.role)) for s in sites(host)] == [
            (row["module"], row["role"]) for row in rows
        ]
        assert f"{len(rows)} of {len(measure_sites(profile))} sites by severity" in state(host)
        for line, row in zip(screen_text(host).split("\n")[2:20], rows, strict=False):
            assert row["module"].removeprefix("model.") in line
            assert row["role"] in line
            body = row["body_sqnr_db"]
            assert decibel(np.inf if body is None else body) in line
            assert percent(row["underflow_rate"]) in line
            assert times(row["amax_over_rms_body"]) in line
            assert (number(row["amax"]) in line) or size == NARROW

    drive(snapshot_of(profile), SitesScreen(), steps, size)


@SIZES
def test_sort_goes_through_the_columns_and_reverse_turns(size: tuple[int, int]) -> None:
    snapshot = snapshot_of(llama())
    orders = {2: "body-sqnr", 3: "underflow", 4: "outlier", 5: "headroom"}

    async def steps(pilot: Pilot[Any], host: Host) -> None:
        for at, column in enumerate(columns(snapshot.short)):
            await pilot.press("s")
            assert f"by {column.header}" in state(host)
            keys = [column.key(row) for row in table(host).rows]
            assert keys == sorted(keys)
            if at in orders:
                wanted = in_order((snapshot.sites or {}).values(), orders[at], CAST)
                assert [str(site) for site in sites(host)] == [str(row.site) for row in wanted]
            await pilot.press("r")
            assert [column.key(row) for row in table(host).rows] == keys[::-1]
        await pilot.press("s")
        assert "by severity" in state(host)

    drive(snapshot, SitesScreen(), steps, size)


def test_a_click_on_a_header_sorts_and_another_reverses() -> None:
    async def steps(pilot: Pilot[Any], host: Host) -> None:
        title = screen_text(host).split("\n")[1].index("underflow")
        await pilot.click(Header, offset=(title + 2, 0))
        assert "by underflow;" in state(host)
        await pilot.click(Header, offset=(title + 2, 0))
        assert "by underflow, reversed;" in state(host)

    drive(snapshot_of(llama()), SitesScreen(), steps)


@SIZES
def test_roles_blocks_and_findings_are_filters_that_escape_undoes(size: tuple[int, int]) -> None:
    outlying = gaussian(256, 64)
    outlying[:, 5] *= np.float32(2.0**20)
    names = [f"model.layers.0.mlp.{name}" for name in ("a", "b")]
    profile = of_modules({names[0]: gaussian(256, 64), names[1]: outlying})

    async def steps(pilot: Pilot[Any], host: Host) -> None:
        await pilot.press("f")
        assert {site.role for site in sites(host)} == {Role.INPUT}
        await pilot.press("f")
        assert {site.role for site in sites(host)} == {Role.WEIGHT}
        await pilot.press("f")  # k, v, residual and output are not there
        assert len(sites(host)) == 4
        assert "all roles" in state(host)
        await pilot.press("x")
        assert {site.module for site in sites(host)} == {names[1]}
        assert "findings" in state(host)
        assert screen_text(host).split("\n")[2].startswith("! ")
        await pilot.press("x", "b")
        assert "block layers.0" in state(host)
        await pilot.press("escape")
        assert cast(SitesScreen, host.shown).view == View()
        assert not host.left
        await pilot.press("escape")
        assert host.left  # nothing to undo: it is the frame's

    drive(snapshot_of(profile), SitesScreen(), steps, size)


def test_the_block_under_the_cursor_alone_and_all_again() -> None:
    async def steps(pilot: Pilot[Any], host: Host) -> None:
        before = sites(host)
        await pilot.press("down", "down")
        site = table(host).site
        assert site is not None
        block = site.module.split(".")[2]
        await pilot.press("b")
        assert sites(host)
        assert all(f".layers.{block}." in f"{s.module}." for s in sites(host))
        assert table(host).site == site
        await pilot.press("b")
        assert sites(host) == before

    drive(snapshot_of(llama()), SitesScreen(), steps)


@SIZES
def test_the_search_is_incremental_and_stays_until_it_is_undone(size: tuple[int, int]) -> None:
    async def steps(pilot: Pilot[Any], host: Host) -> None:
        every = len(sites(host))
        await pilot.press("slash", *"down")
        assert {"down_proj" in site.module for site in sites(host)} == {True}
        await pilot.press("space", "backspace", *"_proj input", "down")
        assert table(host).cursor == 1
        assert all(site.role is Role.INPUT for site in sites(host))
        await pilot.press("enter")
        assert table(host).has_focus
        assert "“down_proj input”" in state(host)
        await pilot.press("s")  # a key again, and not a letter
        assert "by module" in state(host)
        await pilot.press("escape")
        assert len(sites(host)) == every
        await pilot.press("slash", *"[nothing", "enter", "enter", "down", "up")
        assert not sites(host)
        assert table(host).site is None

    drive(snapshot_of(llama()), SitesScreen(), steps, size)


@SIZES
def test_the_cursor_moves_opens_and_copies(size: tuple[int, int]) -> None:
    snapshot = many(llama(), 300)

    async def steps(pilot: Pilot[Any], host: Host) -> None:
        shown, last = table(host), 0
        for key in ("down", "j", "pagedown", "end", "up", "k", "pageup", "home", "G", "g"):
            await pilot.press(key)
            assert shown.cursor != last, key
            last = shown.cursor
            top = shown.scroll_offset.y
            assert top <= shown.cursor < top + shown.size.height
        assert shown.cursor == 0
        await pilot.press("down", "enter", "c")
        assert shown.site is not None
        assert host.layers == [shown.site.module] == [host.clipboard]

    drive(snapshot, SitesScreen(), steps, size)


def test_a_click_moves_the_cursor_and_another_opens() -> None:
    async def steps(pilot: Pilot[Any], host: Host) -> None:
        await pilot.click(SiteTable, offset=(5, 4))
        assert table(host).cursor == 4
        assert not host.layers
        await pilot.click(SiteTable, offset=(5, 4))
        assert host.layers == [sites(host)[4].module]

    drive(snapshot_of(llama()), SitesScreen(), steps)


def test_rows_come_in_and_the_cursor_stays_on_its_site_at_its_height(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fp8scope.report.snapshot.CHUNK", 12)
    snapshots = [opened(Path("profile.h5"), llama())]
    snapshots += islice(filled(snapshots[0]), 9)

    async def steps(pilot: Pilot[Any], host: Host) -> None:
        assert state(host).startswith("0 of ")
        assert " read; " in state(host)
        await pilot.press("down", "enter")
        assert not host.layers
        host.know(snapshots[1])
        assert table(host).cursor == 0  # nobody has chosen a site yet
        await pilot.press("down", "down", "down")
        site = table(host).site
        for snapshot in snapshots[2:]:
            host.know(snapshot)
            await pilot.pause()
            shown = table(host)
            assert shown.site == site
            assert shown.scroll_offset.y <= shown.cursor < shown.scroll_offset.y + shown.size.height
        assert " read; " not in state(host)
        await pilot.press("s", "r")
        assert table(host).site == site
        wanted = in_order(measure_sites(llama()), roles=CAST)
        assert {row.site for row in wanted} == set(sites(host))

    drive(snapshots[0], SitesScreen(), steps)


def test_of_thousands_of_rows_only_what_is_seen_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Site] = []
    draw = SiteTable._drawn

    def drawing(self: SiteTable, row: SiteMeasures, cursor: bool, mark: bool) -> Any:
        drawn.append(row.site)
        return draw(self, row, cursor, mark)

    monkeypatch.setattr(SiteTable, "_drawn", drawing)

    async def steps(pilot: Pilot[Any], host: Host) -> None:
        assert len(sites(host)) >= 1600
        assert len(drawn) <= 2 * 50
        drawn.clear()
        await pilot.press("down")
        assert len(drawn) <= 2  # the cursor's old place and its new one
        drawn.clear()
        await pilot.press("end")
        assert len(drawn) <= 50

    drive(many(llama(), 2600), SitesScreen(), steps, WIDE)


@SIZES
def test_text_of_the_model_is_shown_literally(size: tuple[int, int]) -> None:
    async def steps(pilot: Pilot[Any], host: Host) -> None:
        text = screen_text(host)
        assert not CONTROLS.search(text.replace("\n", ""))
        assert ("«·[31mred·[0m»" in text) == (size == WIDE)
        await pilot.press("slash", "[", "b", "]", "enter")
        assert "“[b]”" in state(host)

    drive(snapshot_of(hostile()), SitesScreen(), steps, size)


def test_blocks_are_in_the_order_of_their_numbers() -> None:
    names = [f"model.layers.{i}.mlp.up_proj" for i in (2, 10, 1)]
    found = sorted((Site(name, Role.INPUT) for name in names), key=by_name)
    assert [site.module for site in found] == [names[2], names[0], names[1]]


def test_the_search_is_no_place_for_the_keys_of_the_table() -> None:
    async def steps(pilot: Pilot[Any], host: Host) -> None:
        await pilot.press("slash", *"sfrbx")
        assert host.shown.query_one("#search", Input).value == "sfrbx"
        assert "by severity" in state(host)

    drive(snapshot_of(llama()), SitesScreen(), steps)
