"""Walk over all screens of the demo: what they show is what the command line says with --json."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from fp8scope.cli.app import main
from fp8scope.core.words import decibel, nats, number, percent, times
from fp8scope.tui.app import BrowseApp
from fp8scope.tui.layer import LayerScreen
from fp8scope.tui.plan_screen import PlanScreen
from fp8scope.tui.sites import SitesScreen
from tests.tui.browsing import DEMO, all_of_demo, browse, overview, said, settled
from tests.tui.host import screen_text

Json = dict[str, Any]
ROOMY = (200, 120)
"""Every row of the demo, and every column."""
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@pytest.fixture
def said_by(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """`said_by(verb, *words)`: the JSON that the command line prints of the demo."""
    monkeypatch.setattr("os._exit", sys.exit)

    def run(verb: str, *words: object) -> Json:
        monkeypatch.setattr(sys, "argv", ["fp8scope", verb, str(DEMO), *map(str, words), "--json"])
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        main()
        for each, handler in before.items():  # the command listens to the end of its process
            signal.signal(each, handler)
        found: Json = json.loads(capfd.readouterr().out)
        return found

    return run


def numbers(found: Any) -> Iterator[float]:
    """Every number of some JSON, however deep."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        for part in found:
            yield from numbers(part)
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield float(found)


def test_the_overview_shows_numbers_of_analyze_alone(said_by: Any) -> None:
    analysis = said_by("analyze")
    rows = {(name, row["role"]): row for row in analysis["rows"] for name in row["shared_by"]}
    caches = {row["module"]: row for row in analysis["kv_cache"]}
    groups = {name: row for row in analysis["groups"] for name in row["members"]}

    def allowed(measure: str, module: str) -> set[float]:
        """What may stand in the cell of this module."""
        if measure.startswith("KL"):
            whole = caches.get(module) or groups[module]["candidates"]
            return set(numbers(whole))
        found = [row for (name, _), row in rows.items() if name == module]
        if measure.startswith("scales from"):
            owners = {(row["module"], row["role"]) for row in found}
            tag = measure.split()[2]
            return {
                of["clip"]
                for row in analysis["headroom"]
                if row["calibration"] == tag and (row["module"], row["role"]) in owners
                for of in row["tags"].values()
            }
        field = {
            "body SQNR": "body_sqnr_db",
            "underflow": "underflow_rate",
            "amax/rms of the body": "amax_over_rms_body",
            "headroom": "headroom",
        }[measure]
        return {row[field] for row in found}

    seen: set[str] = set()

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        screen, grid = overview(app), app.snapshot.grid
        for measure in [one.name for one in screen._measures()]:
            assert screen.measure.name == measure
            for at, module in grid.modules.items():
                screen.heat.move_to(at)
                await pilot.pause()
                shown = said(app, "#detail").splitlines()
                assert shown[0].split()[0] == module
                if "not known" not in shown[1]:
                    figures = shown[1].partition(": ")[2].partition(" ±")[0]
                    found = {float(word) for word in NUMBER.findall(figures)}
                    assert found, (measure, module)
                    assert found <= allowed(measure, module), (measure, module)
                    seen.add(measure)
            await pilot.press("m")
        assert len(seen) == len(screen._measures())

    browse(all_of_demo(), steps)


def test_every_row_of_sites_is_that_of_analyze(said_by: Any) -> None:
    rows = said_by("analyze", "--sites")["rows"]

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        await pilot.press("2")
        await settled(app, pilot)
        assert isinstance(app.screen, SitesScreen)
        while app.screen.view.roles != "all roles":
            await pilot.press("f")
        lines = screen_text(app).splitlines()[2 : 2 + len(rows)]
        for row, line in zip(rows, lines, strict=True):
            words = line.removeprefix("!").split()
            assert words[:2] == [row["module"].removeprefix("model."), row["role"]]
            body = row["body_sqnr_db"]
            expected = [
                *(decibel(float("inf") if body is None else body).split()),
                percent(row["underflow_rate"]),
                times(row["amax_over_rms_body"]),
            ]
            shared = len(row["shared_by"]) > 1  # `input +2`
            assert words[2 + shared : 2 + shared + len(expected)] == expected
            assert number(row["amax"]) in words
            if row["worst_token"]:
                assert str(row["worst_token"]["channel"]) in words
                assert f"{row['worst_token']['tag']} {row['worst_token']['position']}:" in line

    browse(all_of_demo(), steps, size=ROOMY)


@pytest.mark.parametrize(
    "module",
    ["model.layers.0.mlp.down_proj", "model.layers.2.self_attn.q_proj", "model.layers.3.self_attn"],
)
def test_a_layer_is_that_of_analyze(said_by: Any, module: str) -> None:
    found = said_by("analyze", "--layer", module)
    seen = []

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        app.open_layer(module)
        await pilot.pause()
        await settled(app, pilot)
        assert isinstance(app.screen, LayerScreen)
        for _ in found["sites"]:
            await pilot.pause()
            await pilot.pause()
            detail = app.screen.detail
            assert detail
            site = next(
                row
                for row in found["sites"]
                if (row["module"], row["role"])
                == (detail.measures.site.module, str(detail.measures.site.role))
            )
            text = " ".join(screen_text(app).split())
            for score in found["scores"] + found["pairs"]:
                assert f"{nats(score['kl'])} ± {nats(score['error'])}" in text
            plain = site["errors"]["tensor"]
            now = f"now {percent(plain['saturation_rate'])} {percent(plain['underflow_rate'])} "
            now += f"{decibel(plain['body_sqnr_db'])} {decibel(plain['sqnr_db'])}"
            assert now in text
            for tag in site["tags"]:
                row = f"{tag['name']} {tag['elements']:,} {number(tag['amax'])} "
                assert row in text
            for of in site["amax_quantiles"].values():
                assert " ".join(number(value) for value in of.values()) in text
            for line in [part for lines in site["largest"].values() for part in lines]:
                assert f"{line['index']} {number(line['amax'])} " in text
            seen.append(str(detail.measures.site.role))
            await pilot.press("tab")
            await settled(app, pilot)

    browse(all_of_demo(), steps, size=ROOMY)
    assert sorted(seen) == sorted(row["role"] for row in found["sites"])


def test_every_row_of_the_plan_is_that_of_plan(said_by: Any, tmp_path: Path) -> None:
    plan = said_by("plan", "-o", tmp_path / "plan.json")

    async def steps(app: BrowseApp, pilot: Pilot[Any]) -> None:
        await pilot.press("3")
        await settled(app, pilot)
        assert isinstance(app.screen, PlanScreen)
        lines = screen_text(app).splitlines()
        by_name = {line[1:].split()[0]: line for line in reversed(lines) if "." in line}
        assert len(plan["groups"]) == len(app.screen._shown) - 1  # that of the KV cache
        for group in plan["groups"]:
            line, known = by_name[group["name"].removeprefix("model.")], group["evidence"]
            words = line.split()
            assert words[2] == group["precision"].removeprefix("fp8_")
            if group["precision"] != "bf16":
                assert words[3] == nats(known["kl"])
            columns = ("fp8_tensor", "fp8_token", "fp8_block", "fp8_smooth")
            costs = [known["candidates"].get(name) for name in columns]
            assert words[4:8] == ["·" if kl is None else nats(kl) for kl in costs]
            assert words[9] == number(known["bf16_time_us"])
            if group["precision"] != "bf16":
                assert words[8] == number(known["fp8_time_us"])
        side = "\n".join(line.rstrip() for line in lines)
        predicted, text = plan["predicted"], " ".join(" ".join(lines).split())
        whole = predicted["nats"]
        assert f"KL {nats(whole['kl'])} ± {percent(whole['error'] / whole['kl'])}" in text
        assert f"{predicted['effective_bits']:.2f} bits" in text
        assert f"BF16 {percent(predicted['bf16_share'])}" in text
        assert f"{number(predicted['step_time_us'])} µs" in text
        for tag, of in predicted["tags"].items():
            assert f"{tag} {nats(of['kl'])}" in text
        points = {
            (
                nats(point["kl"]),
                f"{point['effective_bits']:.2f}",
                number(point["step_time_us"]),
                str(point["bf16_groups"]),
            )
            for point in plan["frontier"]
        }
        shown = re.findall(r"(<?\d\.\d+) +(\d+\.\d\d) +([\d.]+) +(\d+)(?: ◂ now)?$", side, re.M)
        assert len(shown) > 5
        assert points.issuperset(shown)

    browse(all_of_demo(), steps, size=ROOMY)
