"""The layer screen: every key, and every number equal to `analyze --layer --json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from fp8scope.analyze.layer import layer_findings
from fp8scope.analyze.ratios import Nats
from fp8scope.analyze.sensitivity import Score
from fp8scope.core.choices import Kind, Row, Term
from fp8scope.core.error import QuantError
from fp8scope.core.formats import E5M2
from fp8scope.core.sites import Site
from fp8scope.core.words import decibel, nats, number, percent, times
from fp8scope.errors import DamagedProfile
from fp8scope.profile.record import Profile
from fp8scope.report.findings import finding_rows
from fp8scope.report.rows import detail_row
from fp8scope.tui.bars import kl_bars
from fp8scope.tui.channels import Channels, Smoothable
from fp8scope.tui.layer import LayerScreen
from fp8scope.tui.whatif import ALPHAS, Trial
from tests.profiles import ATTENTION, Q, build
from tests.tui.host import NARROW, WIDE, Host, drive, screen_text, settled, snapshot_of
from tests.tui.subjects import CONTROLS, HOSTILE, TAGS, hostile, llama, scanned

BLOCK = "model.layers.0"
DOWN = f"{BLOCK}.mlp.down_proj"
QKV = f"{BLOCK}.self_attn.qkv"
WHOLE = (129, 260)  # a page in one column that need not be scrolled


def layer(host: Host) -> LayerScreen:
    return cast(LayerScreen, host.shown)


def page(profile: Profile, module: str, keys: Sequence[str] = (), size: Any = WHOLE) -> str:
    """What stands on the whole page, after these keys."""
    found = []

    async def look(pilot: Pilot[Any], host: Host) -> None:
        if keys:
            await pilot.press(*keys)
            await settled(pilot)
        found.append(screen_text(host))

    host = drive(snapshot_of(profile, full=False), LayerScreen(module), look, size)
    assert not host.problems
    return str(found[0])


def words(text: str) -> str:
    """With single spaces, whatever was broken over lines."""
    return " ".join(text.split())


def db(value: float | None) -> str:
    return decibel(float("inf") if value is None else value)


def expected(site: dict[str, Any]) -> list[str]:
    """Every number of a site's JSON as it is written for a person."""
    found = [
        f"{site['elements']:,} elements",
        f"amax {number(site['amax'])}",
        f"amax/rms {times(site['amax_over_rms_body'])}",
    ]
    for name, error in site["errors"].items():
        found += [name, db(error["body_sqnr_db"]), db(error["sqnr_db"])]
        found.append(percent(error["underflow_rate"]))
    for tag in site["tags"]:
        found += [tag["name"], f"{tag['elements']:,}", number(tag["amax"])]
        found += [db(tag["body_sqnr_db"])]
        found += [f"{times(tag['headroom'])}×"] if tag["headroom"] is not None else []
    for head in site["heads"]:
        found += [number(head["amax"]), times(head["amax_over_rms_body"])]
    for of in site["amax_quantiles"].values():
        found += [number(value) for value in of.values()]
    for lines in site["largest"].values():
        for line in lines:
            found += [str(line["index"]), number(line["amax"]), number(line["rms"])]
            found += [f"{times(line['over_median'])}×"] if line["over_median"] else []
    found += [number(value["value"]) for value in site["top_weights"][:10]]
    return found


@pytest.mark.parametrize("module", [QKV, DOWN, f"{BLOCK}.self_attn"])
def test_every_number_of_a_site_is_that_of_the_json(module: str) -> None:
    rows = {d.measures.site: detail_row(d) for d in layer_findings(llama(), module).details}
    seen = set()

    async def steps(pilot: Pilot[Any], host: Host) -> None:
        for _ in rows:
            detail = layer(host).detail
            assert detail is not None
            text = screen_text(host)
            for piece in expected(rows[detail.measures.site]):
                assert piece in text, (str(detail.measures.site), piece)
            seen.add(detail.measures.site)
            await pilot.press("tab")
            await settled(pilot)  # tables are drawn after what the key acts on

    drive(snapshot_of(llama(), full=False), LayerScreen(module), steps, WHOLE)
    assert seen == rows.keys()


def test_scores_causes_headroom_and_convergence_are_those_of_the_json() -> None:
    profile = llama()
    found = finding_rows(layer_findings(profile, DOWN))
    text = page(profile, DOWN)
    assert found["scores"]
    assert found["pairs"]
    for score in found["scores"] + found["pairs"]:
        mark = "●" if score["measured"] else "○"
        assert f"{mark} {nats(score['kl'])} ± {nats(score['error'])}" in text
    assert len({bool(score["measured"]) for score in found["scores"]}) == 2
    for cause in found["causes"]:
        assert words(cause["sentence"])[:60] in words(text)
    headroom = [row for row in found["headroom"] if row["role"] == "input"]
    assert headroom
    for row in headroom:
        for of in row["tags"].values():
            share = of["saturated_sequences"] / of["sequences"]
            assert f"{percent(share)} {times(of['clip'])}×" in text
    for row in found["convergence"]:
        assert f"convergence: {row['state']}" in text
        for tag, curve in row["tags"].items():
            assert tag in text
            assert number(curve["amax"]) in text
            assert number(curve["step_per_doubling"]) in text


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_experts_and_a_latent_cache_unscored(family: str) -> None:
    profile = scanned(family)
    stack = next(m for m in profile.weights if m in profile.expert_weights and "down" in m)
    cache = profile.structure.kv_layers[0].attention
    for module in (stack, cache):
        found = layer_findings(profile, module)
        text = page(profile, module, ["a", "a"])
        row = min(found.details, key=lambda detail: detail.measures.severity)
        for piece in expected(detail_row(row)):
            assert piece in text, (module, piece)
        assert "what it costs" not in text


def errors(host: Host) -> QuantError:
    screen = layer(host)
    assert screen.what_if is not None
    return screen.what_if.outcome(screen.trial).error


@pytest.mark.parametrize("size", [NARROW, WIDE])
def test_keys_move_the_scale_the_format_and_alpha(size: tuple[int, int]) -> None:
    async def steps(pilot: Pilot[Any], host: Host) -> None:
        screen = layer(host)
        for key, trial in (
            ("[", Trial(eighths=-1)),
            ("{", Trial(eighths=-9)),
            ("}", Trial(eighths=-1)),
            ("]", Trial()),
            ("}", Trial(eighths=8)),
            ("o", Trial(E5M2, 8)),
            ("=", Trial(E5M2)),
            ("a", Trial(E5M2, alpha=0.125)),
            ("a", Trial(E5M2, alpha=0.25)),
            ("A", Trial(E5M2, alpha=0.125)),
        ):
            await pilot.press(key)
            assert screen.trial == trial, key
            text = screen_text(host)
            assert trial.format.name.upper() in text
            error, about = errors(host), "≈" if trial.alpha else ""
            assert f"{about}{percent(error.underflow_rate)}" in text
            assert f"{about}{db(error.body_sqnr_db)}" in text
            assert f"{about}{db(error.sqnr_db)}" in text
            said = str(screen.query_one("#outcome", Static).content)
            assert ("estimate" in said) == bool(trial.alpha)

    drive(snapshot_of(llama(), full=False), LayerScreen(DOWN), steps, size)


def test_alpha_where_nothing_folds_says_so_and_changes_nothing() -> None:
    async def steps(pilot: Pilot[Any], host: Host) -> None:
        await pilot.press("a")
        assert layer(host).trial == Trial()
        assert any("Nothing folds" in note.message for note in host._notifications)

    drive(snapshot_of(scanned("opt"), full=False), LayerScreen("lm_head"), steps)


def test_the_score_of_the_scheme_that_is_tried_is_said() -> None:
    text = page(llama(), DOWN)
    score = next(s for s in layer_findings(llama(), DOWN).scores if _is(s, "fp8_tensor", None))
    said = f"{DOWN} in fp8_tensor costs {nats(score.kl)} ± {nats(score.nats.error)}"
    assert f"Scored: {said} nats per token." in words(text)
    text = page(llama(), DOWN, ["a", "a"])
    assert f"Scored: {DOWN} in fp8_smooth" in words(text)
    assert "Scored" not in page(llama(), DOWN, ["]"])


def _is(score: Any, candidate: str, alpha: float | None) -> bool:
    term = score.row.terms[-1]
    return (term.candidate, term.alpha, term.folded) == (candidate, alpha, None)


@pytest.mark.parametrize("size", [NARROW, WIDE])
def test_tab_goes_round_the_sites_and_begins_anew(size: tuple[int, int]) -> None:
    async def steps(pilot: Pilot[Any], host: Host) -> None:
        screen = layer(host)
        assert screen.study is not None
        count, start = len(screen.study.findings.details), screen.at
        seen = []
        for _ in range(count):
            await pilot.press("]", "tab")
            assert screen.trial == Trial()
            assert screen.detail is not None
            seen.append(screen.detail.measures.site)
        assert len(set(seen)) == count == 3  # input, output and weight
        assert screen.at == start
        await pilot.press("shift+tab")
        assert screen.at == (start - 1) % count

    drive(snapshot_of(llama(), full=False), LayerScreen(DOWN), steps, size)


@pytest.mark.parametrize("size", [NARROW, WIDE])
def test_letters_jump_to_sections_and_the_what_if_comes_back(size: tuple[int, int]) -> None:
    async def steps(pilot: Pilot[Any], host: Host) -> None:
        for key, title in (
            ("t", "tags, headroom"),
            ("v", "largest values"),
            ("l", "l  channels"),
            ("k", "what it costs"),
            ("w", "why, and what"),
        ):
            await pilot.press(key)
            assert title in screen_text(host), key
        await pilot.press("t", "]")
        assert "what if" in screen_text(host)
        assert layer(host).query_one("#page").scroll_y == 0
        await pilot.press("t", "h")
        assert "magnitudes of" in screen_text(host)

    drive(snapshot_of(llama(), full=False), LayerScreen(DOWN), steps, size)


@pytest.mark.parametrize("size", [NARROW, WIDE])
def test_next_and_previous_module_in_the_order_of_the_overview(size: tuple[int, int]) -> None:
    async def steps(pilot: Pilot[Any], host: Host) -> None:
        screen, grid = layer(host), host.snapshot.grid
        names = [grid.modules[place] for place in sorted(grid.modules)]
        await pilot.press("p")
        assert screen.module == names[0]  # there is none before it
        for name in names[1:3]:
            await pilot.press("n")
            await settled(pilot)
            assert screen.module == screen.named == name
            assert screen.study is not None
            assert screen.study.findings.module == name
            assert name.removeprefix("model.") in screen_text(host)

    first = sorted(snapshot_of(llama(), full=False).grid.modules.items())[0][1]
    drive(snapshot_of(llama(), full=False), LayerScreen(first), steps, size)


def test_groups_caches_and_blocks_have_siblings_of_their_kind() -> None:
    async def steps(names: tuple[str, str], pilot: Pilot[Any], host: Host) -> None:
        await pilot.press("n")
        await settled(pilot)
        assert layer(host).module == names[1]
        assert layer(host).detail is not None

    for names in (
        (QKV, f"{BLOCK}.self_attn.o_proj"),
        (f"{BLOCK}.self_attn.kv_cache", "model.layers.1.self_attn.q_proj"),
        (BLOCK, "model.layers.1"),
    ):
        snapshot = snapshot_of(llama(), full=False)
        drive(snapshot, LayerScreen(names[0]), partial(steps, names))


def test_escape_and_copy_are_the_frames() -> None:
    async def steps(pilot: Pilot[Any], host: Host) -> None:
        await pilot.press("c")
        assert host.clipboard == DOWN
        await pilot.press("escape")
        assert host.left

    drive(snapshot_of(llama(), full=False), LayerScreen(DOWN), steps)


def test_what_the_snapshot_knows_is_there_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = []
    monkeypatch.setattr(LayerScreen, "_start", lambda screen, module: waiting.append(module))
    text = words(page(llama(), DOWN))
    assert waiting == [DOWN]
    score = snapshot_of(llama(), full=False).scores[DOWN]["fp8_tensor"]
    assert f"{nats(score.kl)} ± {nats(score.nats.error)} nats per token in fp8_tensor" in text
    assert "reading …" in text
    assert "○ " in text


def test_a_later_snapshot_and_nothing_new_keep_what_was_tried() -> None:
    async def steps(pilot: Pilot[Any], host: Host) -> None:
        await pilot.press("]", "]")
        host.know(snapshot_of(llama()))
        await pilot.pause()
        assert layer(host).trial == Trial(eighths=2)
        assert "rounding" in str(layer(host).query_one("#heading", Static).content)

    drive(snapshot_of(llama(), full=False), LayerScreen(DOWN), steps)


@pytest.mark.parametrize("module", [Q, ATTENTION])
@pytest.mark.parametrize("size", [NARROW, WIDE, WHOLE])
def test_text_of_the_model_is_shown_literally(module: str, size: tuple[int, int]) -> None:
    text = page(hostile(), module, ["v"], size)
    assert not CONTROLS.search(text.replace("\n", ""))
    if size == WHOLE:
        assert "«[bold]x[/bold]»" in text
        assert "漢字かな" in text
        assert "·[31mred·[0m" in text
        assert TAGS[0] in text
        assert "[blink]·[2J.txt" in text
        assert len(HOSTILE) == 6


def test_stacked_experts_are_smoothed_before_a_key_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fp8scope.tui.study.MANY", 1)
    asked: list[float] = []
    at = Smoothable.at

    def asking(self: Smoothable, alpha: float | None) -> Channels:
        asked.append(alpha or 0.0)
        return at(self, alpha)

    monkeypatch.setattr(Smoothable, "at", asking)

    async def steps(pilot: Pilot[Any], host: Host) -> None:
        prepared = len(asked)
        assert prepared >= len(ALPHAS) - 1
        await pilot.press("a", "]", "a", "a")
        assert layer(host).trial.alpha == 0.375
        assert len(asked) == prepared

    profile = scanned("mixtral")
    stack = next(m for m in profile.expert_weights if "down" in m)
    drive(snapshot_of(profile, full=False), LayerScreen(stack), steps)


def test_a_damaged_record_is_a_problem_in_words() -> None:
    profile = build()

    class Broken(dict[Site, Any]):
        def __getitem__(self, site: Site) -> Any:
            raise DamagedProfile("profile.h5 is truncated")

    async def steps(pilot: Pilot[Any], host: Host) -> None:
        await pilot.press("]", "a", "o", "tab", "v", "t")
        assert layer(host).study is None

    broken = replace(profile, sites=Broken(profile.sites))
    host = drive(snapshot_of(broken, full=False), LayerScreen(Q), steps)
    assert host.problems == ["profile.h5 is truncated"]


def test_what_the_text_never_reached_says_so() -> None:
    profile = build(sites={}, aliases={}, weights={})
    assert "never reached it" in page(profile, Q)


def test_bars_end_where_the_axis_does() -> None:
    """However close to its end a bar, and however short its error."""
    row = Row(Kind.GROUP, (Term("g", "fp8_tensor"),))
    for kl, error in ((0.0999, 1e-5), (0.09, 5.0), (1e-5, 1e-6), (0.01, 0.005)):
        found = Nats(kl, error)
        bar, _ = str(kl_bars([Score(row, found, found, found, found, {})], 60)).split("\n")
        assert len(bar) == 60
