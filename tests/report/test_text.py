"""The table of sites and the verdict above it, as a person reads them at several widths."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.console import Console, RenderableType

from fp8scope.analyze.detail import module_detail
from fp8scope.analyze.measures import SiteMeasures, measure_sites
from fp8scope.core.sites import Role, Site
from fp8scope.core.words import common_prefix, decibel, number, percent, times
from fp8scope.profile.layout import EXCERPT_COLUMNS
from fp8scope.profile.record import Profile, empty_table
from fp8scope.report.layer import site_tables
from fp8scope.report.text import worst_sites
from fp8scope.report.words import shorten
from tests.analyze.sites import measured, of_amax, with_outlier
from tests.analyze.test_measures import silent
from tests.profiles import ATTENTION, K, Q, build

WIDTHS = (40, 60, 80, 100, 120, 200)


def shown(*what: RenderableType, width: int = 200) -> str:
    console = Console(file=StringIO(), width=width, color_system=None, highlight=False)
    for one in what:
        console.print(one)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def layer(of: Profile, module: str = Q, width: int = 200) -> str:
    return shown(*(t for d in module_detail(of, module) for t in site_tables(d)), width=width)


def marked_up(token: str = "[red]") -> Profile:  # noqa: S107  (a token of text)
    of = of_amax(("[red]tag[/red]", "[/nonsense]"), 4, 8)
    table: dict[str, NDArray[Any]] = {
        "sample": np.array([1], np.int32),
        "position": np.array([2], np.int32),
        "token_id": np.array([0], np.int32),
        "token": np.array([token.encode()], "S48"),
        "before": np.array([b"see [/b]"], "S160"),
        "after": np.array([b"[/] \\["], "S160"),
    }
    return replace(of, excerpts=table)


def test_markup_in_tags_and_tokens_is_shown_as_it_is() -> None:
    of = marked_up()
    for text in (shown(worst_sites(measure_sites(of), 9)), layer(of)):
        for part in ("[/nonsense]", "see [/b]«[red]»[/] \\["):
            assert part in text, part
    assert "[red]tag[/red]" in layer(of)


def test_no_control_character_reaches_the_terminal() -> None:
    of = marked_up("\x1b[2J\u202e")
    of.tags = ("a\x07", "b\r")
    of.sources = ({"location": "\x1b]0;x\x07.txt"},)
    rows = measure_sites(of)
    hostile = [replace(rows[0], site=Site("\x1b[2J.layers.0.q", Role.INPUT))]
    text = shown(worst_sites(rows, 9), worst_sites(hostile, 9)) + layer(of)
    assert not set("\x1b\x07\r\u202e") & set(text)


def many(prefix: str = "model.layers") -> list[SiteMeasures]:
    row = measured(of_amax(("prose", "technical"), 4, 8))
    parts = ("self_attn.q_proj", "mlp.down_proj")
    modules = [f"{prefix}.{i}.{part}" for i in range(9, 12) for part in parts] + ["lm_head"]
    return [replace(row, site=Site(module, Role.INPUT)) for module in modules]


@pytest.mark.parametrize("width", WIDTHS)
def test_one_line_per_site_at_every_width(width: int) -> None:
    lines = shown(worst_sites(many(), 20), width=width).splitlines()
    assert max(map(cell_len, lines)) <= width
    rule = next(i for i, line in enumerate(lines) if set(line) <= set("─ ") and line)
    assert len(lines) - rule - 1 == len(many())
    if width >= 80:
        for row, line in zip(many(), lines[rule + 1 :], strict=True):
            assert line.split()[0] == row.site.module.removeprefix("model.")
            assert "0.50× technical" in line
    assert any("«" in line for line in lines) == (width >= 120)


def test_names_that_do_not_fit_lose_whole_parts() -> None:
    lines = shown(worst_sites(many("a.very.long.and.tedious.name.of.blocks"), 20), width=70)
    assert "…11.self_attn.q_proj " in lines
    assert "blocks.11.mlp.down_proj " in lines
    assert "“a.very.long.and.tedious.name.of.”" in lines


@pytest.mark.parametrize(
    ("modules", "prefix"),
    [
        (["model.layers.0.mlp", "lm_head"], "model."),
        (["transformer.h.0.attn.c_attn", "transformer.h.1"], "transformer."),
        (["a.b.layers.1.x", "a.b.layers.2.x", "vision.layers.1.x"], "a.b."),
        (["h.0.x"], ""),
        (["up", "down.proj"], ""),
        ([], ""),
    ],
)
def test_common_prefix(modules: list[str], prefix: str) -> None:
    assert common_prefix(modules) == prefix


@pytest.mark.parametrize(
    ("width", "name"),
    [
        (24, "layers.10.mlp.down_proj"),
        (22, "…10.mlp.down_proj"),
        (12, "…down_proj"),
        (4, "…down_proj"),
    ],
)
def test_shorten(width: int, name: str) -> None:
    assert shorten("layers.10.mlp.down_proj", width) == name


# ---- the verdict


def sentence(of: Profile) -> str:
    return shown(worst_sites(measure_sites(of), 1), width=1000).splitlines()[0]


def test_a_healthy_model_is_said_to_be_healthy() -> None:
    text = sentence(of_amax(("a", "b"), 8, 8))
    assert "3 sites in E4M3 with one static scale each: all at the rounding floor" in text
    assert "no static scale depends on one tag" in text
    assert "depend" not in sentence(of_amax(("a",), 8, 8))


def test_damage_is_counted_and_the_worst_named() -> None:
    text = sentence(with_outlier(1e6))
    assert "1 damaged (body SQNR under 25 dB), worst layers.0.self_attn.q_proj input 0.0 dB" in text
    assert "underflow at most 98% (layers.0.self_attn.q_proj input)" in text
    text = sentence(with_outlier(7e3))
    assert "none damaged (body SQNR under 25 dB), 1 under the floor of 30 dB, worst" in text
    assert "all at" not in text


def test_scales_that_depend_on_one_tag_are_counted() -> None:
    text = sentence(of_amax(("a", "b"), 2, 8))
    assert "1 static scale depends on one tag (headroom under 0.8): " in text
    assert text.endswith("layers.0.self_attn.q_proj input 0.25× b.")
    worst_of_many = shown(worst_sites(many(), 1), width=1000).splitlines()[0]
    assert "7 static scales depend on one tag (headroom under 0.8), worst " in worst_of_many


# ---- cells


def test_headroom_shows_findings_only() -> None:
    def header(of: Profile) -> bool:
        return "head-" in shown(worst_sites(measure_sites(of), 9))

    assert header(of_amax(("a", "b"), 8, 7))
    assert not header(of_amax(("a", "b"), 8, 8))  # a tie
    assert not header(of_amax(("a", "b"), 256, 250))  # 256 would still round to 250's largest
    assert not header(of_amax(("a",), 8, 4))


def test_the_table_says_what_is_known() -> None:
    text = shown(worst_sites(measure_sites(build()), 2))
    assert "first 2 of 4 sites by severity" in text  # without the residual stream
    assert "input +1" in shown(worst_sites(measure_sites(build()), 9))
    assert "exact" in shown(worst_sites([measured(silent())], 1))
    text = shown(worst_sites(measure_sites(build()), 9, roles=(Role.RESIDUAL,), by="outlier"))
    assert "first 1 of 1 sites by outlier" in text
    assert "no site has this role" in shown(
        worst_sites(measure_sites(build()), 9, roles=(Role.OUTPUT,))
    )


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.0, "0"), (1e-9, "<0.01%"), (0.0123, "1.2%"), (0.5904, "59%"), (0.999, "100%"), (1, "100%")],
)
def test_percent(rate: float, text: str) -> None:
    assert percent(rate) == text


def test_numbers() -> None:
    written = [number(x) for x in (0, -0.5, 12.3456, -1234.5, 512345, 4.49e6, 1e-9)]
    assert written == ["0", "-0.5", "12.35", "-1,234", "512,345", "4.49e+06", "1.00e-09"]
    assert [times(x) for x in (1.4666, 63.41, 512345)] == ["1.47", "63.4", "512,345"]
    assert [decibel(x) for x in (31.08, float("inf"))] == ["31.1 dB", "exact"]


# ---- one module


def test_a_layer_shows_all_that_is_recorded() -> None:
    text = layer(build(full=True))
    for part in (
        f"{Q} input",
        f"also read by {K}",
        "one scale per",
        "tensor, static",
        "block of 128 channels",
        "by tag",
        "first token",
        "amax of each",
        "largest channels",
        "largest values, first token",
        "plan.txt:1",
        f"{Q} weight",
        "output channel",
        "largest weights",
    ):
        assert part in text, part
    for part in ("None", "['", "e_", "nan"):
        assert part not in text, part
    assert "by KV head" in layer(build(), ATTENTION)
    assert "also read by" not in layer(build(), ATTENTION)


def test_what_repeats_is_one_row() -> None:
    of = of_amax(("a",), *[8] * 40)
    of.excerpts = empty_table(EXCERPT_COLUMNS)
    text = layer(of)
    others = text[text.index("largest values, other tokens") :].splitlines()[3:]
    assert others[0].split()[:3] == ["-8", "≥32", "3"]  # as many as a list holds
    first = text[text.index("largest values, first token") :].splitlines()[3:]
    assert first[0].split()[:3] == ["1", "0", "0"]  # other channels are other rows
    of = of_amax(("a",), *[8] * 4)
    of.excerpts = empty_table(EXCERPT_COLUMNS)
    assert "-8     ×4        3" in layer(of)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_layer_fits_every_width(width: int) -> None:
    assert max(map(cell_len, layer(build(), width=width).splitlines())) <= width


def test_a_silent_layer_has_tables_too() -> None:
    assert "0 elements" not in layer(silent())
    assert "exact" in layer(silent())
