"""The overview by keys and mouse, on whatever models there are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from textual.color import Color
from textual.pilot import Pilot
from textual.widgets import OptionList

from fp8scope.analyze.groups import GroupFinding
from fp8scope.report.groups import group_sentences
from fp8scope.tui.app import BrowseApp
from fp8scope.tui.heat import HEADER, Heat
from fp8scope.tui.picking import Picker
from tests.profiles import build
from tests.tui.browsing import (
    NARROW,
    WIDE,
    all_of_demo,
    all_of_llama,
    browse,
    demo,
    llama,
    mixture,
    overview,
    planned,
    said,
    without_blocks,
)
from tests.tui.host import screen_text


def findings() -> Mapping[str, GroupFinding]:
    found = all_of_demo().groups
    assert found
    return found


@pytest.mark.parametrize("size", [NARROW, WIDE])
def test_the_verdict_is_that_of_analyze(size: tuple[int, int]) -> None:
    verdict = group_sentences([*findings().values()])[0]

    async def steps(app: BrowseApp, _: Pilot[Any]) -> None:
        assert said(app, "#verdict") == verdict.removesuffix(":") + "."
        assert re.match(r"\d+ of 16 fused groups should not run", verdict)
        lines = screen_text(app).splitlines()
        assert len(lines) == size[1]
        assert lines[0].strip().startswith(verdict[:60])
        shown = "\n".join(lines)
        assert "self_attn" in shown
        assert "lm_head" in shown
        assert "1 overview" in lines[-1]
        assert "q quit" in lines[-1]

    browse(all_of_demo(), steps, size=size)


@pytest.mark.parametrize("size", [NARROW, WIDE])
def test_moving(size: tuple[int, int]) -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        heat = overview(app).heat
        names = app.snapshot.grid.columns
        assert heat.cursor == (0, 0)
        for key, at in (
            ("right", (0, 1)),
            ("l", (0, 2)),
            ("down", (1, 2)),
            ("j", (2, 2)),
            ("up", (1, 2)),
            ("k", (0, 2)),
            ("left", (0, 1)),
            ("h", (0, 0)),
            ("h", (0, 0)),
            ("k", (0, 0)),
            ("end", (20, names.index("lm_head"))),
            ("down", (20, names.index("lm_head"))),
            ("up", (19, names.index("mlp.down"))),
            ("right", (19, names.index("kv_cache"))),
            ("home", (0, names.index("kv_cache"))),
        ):
            await pilot.press(key)
            assert heat.cursor == at, key
            module = app.snapshot.grid.modules[at]
            assert said(app, "#detail").startswith(module), key
        await pilot.press("pagedown")
        page = heat.size.height - HEADER
        assert heat.cursor[0] == min(page // heat._height, 20)
        label = app.snapshot.row_labels[heat.cursor[0]]
        assert any(line.split()[:1] == [label] for line in screen_text(app).splitlines())
        await pilot.press("pageup")
        assert heat.cursor[0] == 0

    browse(all_of_llama(20), steps, size=size)


def test_the_detail_has_the_module_its_group_and_the_number() -> None:
    score = findings()["model.layers.2.self_attn.qkv"]

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        await pilot.press("down", "down", "right")
        detail = said(app, "#detail")
        assert score.plain
        assert detail.splitlines()[0] == (
            "model.layers.2.self_attn.k_proj in model.layers.2.self_attn.qkv"
        )
        assert detail.splitlines()[1].startswith(f"fp8_tensor: {score.plain.kl!r} ± ")
        assert "most in code" in detail

    browse(all_of_demo(), steps)


def test_measures_forward_backward_and_from_a_list() -> None:
    profile = demo()

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        screen = overview(app)
        names = ["KL in fp8_tensor", "KL in the cheapest FP8", "body SQNR"]
        for name in names:
            assert screen.measure.name == name
            assert said(app, "#legend").startswith(name)
            await pilot.press("m")
        await pilot.press("M", "M")
        assert screen.measure.name == names[1]
        await pilot.press("M", "M")
        assert screen.measure.name == "planned precision"
        assert "smooth" in screen_text(app)
        await pilot.press("m")
        assert screen.measure.name == names[0]
        await pilot.press("v")
        assert isinstance(app.screen, Picker)
        assert app.screen.query_one(OptionList).highlighted == 0
        await pilot.press("down", "down", "enter")
        assert overview(app).measure.name == "body SQNR"
        await pilot.press("v", "escape")
        assert overview(app).measure.name == "body SQNR"

    browse(all_of_demo(), steps, plan=planned(profile))


def test_the_next_worst_and_back() -> None:
    harmful = [group.members for group in findings().values() if group.harmful]

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        screen = overview(app)
        await pilot.press("right")
        for members in harmful:
            await pilot.press("n")
            assert screen.named == members[0]
        await pilot.press("N")
        assert screen.named == harmful[-2][0]
        await pilot.press("right", "n")  # moved by hand: from the worst again
        assert screen.named == harmful[0][0]
        await pilot.press("N")
        ranked = screen._ranking()
        assert screen.heat.cursor == ranked[-1]
        assert len(
            {app.snapshot.grid.group(app.snapshot.grid.modules[at]) for at in ranked}
        ) == len(ranked)

    browse(all_of_demo(), steps)


def test_the_mouse_hovers_clicks_and_opens() -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        screen = overview(app)
        width, height, label = screen.heat._width, screen.heat._height, screen.heat._label
        over = (label + width + 1, HEADER + 2 * height)
        await pilot.hover(Heat, offset=over)
        await pilot.pause()
        assert screen.heat.cursor == (0, 0)
        assert said(app, "#detail").startswith("model.layers.2.self_attn.k ")
        await pilot.hover("#verdict")
        await pilot.pause()
        assert said(app, "#detail").startswith("model.layers.0.self_attn.q ")
        await pilot.click(Heat, offset=over)
        assert screen.heat.cursor == (2, 1)
        await pilot.click(Heat, offset=(0, 0))
        assert screen.heat.cursor == (2, 1)
        await pilot.click(Heat, offset=over, times=2)
        await pilot.pause()
        assert app.screen is not screen

    browse(llama(3), steps)


def test_many_blocks_scroll_under_the_header() -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        await pilot.press("pagedown", "down")
        lines = screen_text(app).splitlines()
        heat = overview(app).heat
        top = heat.region.y
        assert "self_attn" in lines[top]
        assert lines[top + 1].split()[:2] == ["q", "k"]
        numbers = [line.split()[0] for line in lines[top + HEADER : top + heat.size.height]]
        first = int(numbers[0])
        assert first > 0
        assert numbers == [str(first + i) for i in range(len(numbers))]
        await pilot.press("end")
        await pilot.pause()
        assert "–" in screen_text(app)
        assert heat.max_scroll_y == heat.scroll_offset.y > 0

    browse(all_of_llama(20), steps)


@pytest.mark.parametrize("size", [NARROW, WIDE])
def test_a_model_without_known_blocks(size: tuple[int, int]) -> None:
    profile = without_blocks()

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        screen = overview(app)
        assert screen.measure.name == "body SQNR"
        assert "has a damaged tensor" in said(app, "#verdict")
        for linear in profile.structure.linears:
            assert screen.named == linear.name
            await pilot.press("down")
        assert "layers.0.self_attn.q " in screen_text(app) or size == NARROW

    browse(profile, steps, size=size)


def test_a_mixture_of_experts() -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        screen = overview(app)
        grid = app.snapshot.grid
        assert grid.columns == (
            *("mlp.up_proj", "mlp.down_proj"),
            *("mlp.gate", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
        )
        await pilot.press("down")
        assert screen.named == "model.layers.1.mlp.gate"  # the nearest one that is there
        await pilot.press("right", "right", "right")
        assert screen.named == "model.layers.1.mlp.experts.down_proj"
        assert "mlp.experts" in screen_text(app)
        assert repr(len(screen.named) / 1e4) in said(app, "#detail")

    browse(mixture(), steps)


def test_a_profile_with_one_tag_and_no_scores() -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        screen = overview(app)
        assert "was not scored" in said(app, "#verdict")
        for name in ("body SQNR", "underflow", "amax/rms of the body", "body SQNR"):
            assert screen.measure.name == name
            await pilot.press("n", "m")

    browse(build(tags=("prose",)), steps)


def test_narrow_cells_show_the_digit_of_their_shade() -> None:
    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        heat = overview(app).heat
        assert heat._width == 3
        row = screen_text(app).splitlines()[heat.region.y + HEADER + 1]
        cells = row.split()[1:]
        assert len(cells) == 8
        assert all(re.fullmatch(r"▸?\d", cell) for cell in cells), row

    browse(llama(2), steps, size=(30, 24))


def test_colours_are_no_colour_alone_and_readable() -> None:
    from fp8scope.report.colours import PRECISIONS, STEPS
    from fp8scope.tui.colours import precision_style, shade

    for dark in (True, False):
        styles = [shade(step, dark) for step in range(STEPS)]
        brightness = []
        for style in [*styles, *(precision_style(name, dark) for name in PRECISIONS)]:
            assert style.color
            assert style.bgcolor
            text, ground = (Color(*part.get_truecolor()) for part in (style.color, style.bgcolor))
            assert text.get_contrast_text(1).hex  # a colour that textual knows
            assert _contrast(text, ground) >= 4.5  # WCAG 2, AA
            brightness.append(_luminance(ground))
        ramp = brightness[:STEPS]
        # worse is further from the background, in greys as well
        assert ramp == sorted(ramp, reverse=not dark)
    letters = [letter for name, (letter, _) in PRECISIONS.items() if name != "fp8"]
    assert len(set(letters)) == len(letters)


def _luminance(colour: Color) -> float:
    from fp8scope.report.colours import luminance

    return luminance((colour.r, colour.g, colour.b))


def _contrast(one: Color, other: Color) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
