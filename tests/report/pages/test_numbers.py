"""Every number of a report's tables and facts is one that analyze --json or plan --json has."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest

from fp8scope.analyze.analysis import analyze_profile
from fp8scope.analyze.layer import layer_findings
from fp8scope.core.words import decibel, nats, number, percent, times
from fp8scope.report.analysis import analysis_row
from fp8scope.report.document.blocks import Details, Facts, Items, Link, Row, Table
from fp8scope.report.figures.anchors import anchor
from fp8scope.report.rows import detail_row
from tests.report.pages.subjects import parts, report, section, snapshot, text
from tests.tui.browsing import demo

Json = dict[str, Any]


@cache
def analysis() -> Json:
    """What analyze --json prints of the demo."""
    return analysis_row(analyze_profile(demo()))


@cache
def plan() -> Json:
    """What plan --json prints."""
    found = snapshot("demo, planned").plan
    assert found
    return found.model_dump(mode="json")


def table(name: str, title: str, at: int = 0) -> Table:
    """A table of a section."""
    return [part for part in parts(section(report(name), title)) if isinstance(part, Table)][at]


def cells(row: Row) -> list[str]:
    return [text(cell.words) for cell in row.cells]


def short(name: str) -> str:
    return name.removeprefix("model.")


def known(value: float | None) -> float:
    """JSON has None for infinity."""
    return math.inf if value is None else value


def test_every_row_of_tensors_is_one_of_analyze() -> None:
    rows = [row for row in analysis()["rows"] if row["role"] in ("input", "weight", "k", "v")]
    shown = table("demo", "Every tensor").rows
    assert len(shown) == len(rows)
    for row, found in zip(rows, shown, strict=True):
        others = len(row["shared_by"]) - 1
        assert cells(found)[:5] == [
            short(row["module"]),
            row["role"] + (f" +{others}" if others else ""),
            decibel(known(row["body_sqnr_db"])),
            percent(row["underflow_rate"]),
            times(row["amax_over_rms_body"]),
        ]
        assert cells(found)[6] == number(row["amax"])
        worst = row["worst_token"]
        assert (cells(found)[7] == "") == (worst is None)
        if worst:
            start = f"{worst['tag']} {worst['position']}, channel {worst['channel']}"
            assert cells(found)[7].startswith(start)
            assert f"«{worst['token']}»" in cells(found)[7]


def test_every_row_of_groups_is_one_of_analyze() -> None:
    groups = analysis()["groups"]
    shown = table("demo", "Where it hurts").rows
    assert len(shown) == len(groups)
    for group, row in zip(groups, shown, strict=True):
        costs = {name: score["kl"] for name, score in group["candidates"].items()}
        best = min(costs, key=lambda name: costs[name])
        plain = nats(costs["fp8_tensor"])
        assert cells(row)[:4] == [short(group["group"]), plain, nats(costs[best]), best]
        assert (row.cells[1].tone == "bad") == group["harmful"]


def test_every_row_of_the_plan_is_one_of_its_json() -> None:
    groups = {short(group["name"]): group for group in plan()["groups"]}
    rows, said = table("demo, planned", "Plan").rows, text(section(report("demo, planned"), "Plan"))
    assert {cells(row)[0] for row in rows} == set(groups)
    for row in rows:
        group, found = groups[cells(row)[0]], cells(row)
        evidence = group["evidence"]
        assert found[1].startswith(group["precision"])
        if group["precision"] != "bf16":
            assert found[2] == nats(evidence["kl"])
        if group["decided"]:
            assert found[3] == nats(evidence["candidates"]["fp8_tensor"])
            assert found[4].split(";")[0] == percent(evidence["share"])
            assert found[5] == number(evidence["bf16_time_us"] - evidence["fp8_time_us"])
            assert (found[6] == "plain rounding") == (evidence["cause"] is None)
        else:
            assert found[6] == group["reason"]
        if group["precision"] == "fp8_smooth":
            assert f"{cells(row)[0]}: {group['reason']}." in said


def test_the_first_screen_of_a_plan() -> None:
    found, facts = plan()["predicted"], _facts("demo, planned")
    assert facts["This plan costs"].startswith(nats(found["nats"]["kl"]))
    assert facts["Plain FP8 everywhere"].startswith(nats(found["plain_fp8"]["kl"]))
    assert facts["Step"] == f"{number(found['step_time_us'])} µs"
    assert facts["Bits per weight"] == f"{found['effective_bits']:.2f}"
    worst = max(of["kl"] for of in found["tags"].values())
    assert facts["Worst use case"].startswith(nats(worst))
    assert facts["KV cache"] == "BF16"
    states = [row["state"] for row in analysis()["convergence"]]
    assert facts["Text enough"] == f"{states.count('settled')} of {len(states)}"
    assert text(report("demo, planned").verdict.blocks[0])[1:] == f"{plan()['summary'][1:]}."


def test_what_the_plan_does_is_said_at_first() -> None:
    told = [group for group in plan()["groups"] if group["precision"] == "fp8_smooth"]
    told.sort(key=lambda group: -group["evidence"]["candidates"]["fp8_tensor"])
    shown = _actions("demo, planned")
    assert len(told) == len(shown) > 0
    for group, said in zip(told, shown, strict=True):
        evidence = group["evidence"]
        cost = f"{nats(evidence['candidates']['fp8_tensor'])} → {nats(evidence['kl'])} nats"
        words = f"{short(group['name'])}: smoothing at α {group['alpha']:g}, {cost} ("
        assert said.startswith(words)


def test_the_first_screen_without_a_plan() -> None:
    facts = _facts("demo")
    models = {name: nats(score["kl"]) for name, score in analysis()["models"].items()}
    assert facts["One static scale per tensor"].startswith(models["fp8_tensor"])
    assert facts["Scales per token"].startswith(models["fp8_token"])
    assert facts["Smoothed at α 0.5"].startswith(models["fp8_smooth"])
    assert facts["Worst use case"] == nats(analysis()["tag_damage"][0]["whole"])
    counts = analysis()["scaling"]["counts"]
    assert facts["Static scales"] == f"{counts['static']} of {sum(counts.values())}"
    harmful = [g for g in analysis()["groups"] if g["group"] in analysis()["harmful"]]
    for group, said in zip(harmful, _actions("demo"), strict=True):
        assert said.startswith(f"{short(group['group'])}: ")
        assert f", {nats(group['candidates']['fp8_tensor']['kl'])} → " in said


def test_the_first_screen_without_scores() -> None:
    of = report("not scored").verdict
    assert "Damaged tensors" in _facts("not scored")
    assert "was not scored" in text(of.blocks[0])
    assert "--sensitivity fisher" in text(of.blocks[-1])
    assert "fp8scope plan" not in text(of)


def test_the_kv_cache_is_that_of_analyze() -> None:
    rows = {short(row["module"]): row for row in analysis()["kv_cache"]}
    shown = table("demo, planned", "KV cache").rows
    assert [cells(row)[0] for row in shown] == list(rows)
    for row in shown:
        found = rows[cells(row)[0]]
        assert cells(row)[1:5] == [
            found["calibrated"],
            found["unit_scale"],
            nats(found["kl_nats"]),
            nats(found["unit_kl_nats"]),
        ]
        assert cells(row)[-1] == "bf16"


@pytest.mark.parametrize("group", ["model.layers.0.mlp.down_proj", "model.layers.2.self_attn.qkv"])
def test_a_layer_is_that_of_analyze(group: str) -> None:
    of = report("demo, planned")
    part = next(p for p in parts(of) if isinstance(p, Details) and p.anchor == anchor(group))
    said = text(part)
    for detail in map(detail_row, layer_findings(demo(), group).details):
        if detail["role"] == "weight":
            continue
        captions = {t.caption: t.rows for t in parts(part) if isinstance(t, Table)}
        name = f"{short(detail['module'])} {detail['role']}"
        tags = captions[f"By tag, under the one scale of all tags: {name}"]
        assert [cells(row)[:3] for row in tags] == [
            [tag["name"], f"{tag['elements']:,}", number(tag["amax"])] for tag in detail["tags"]
        ]
        lines = captions[f"Largest channels, against the median channel: {name}"]
        assert [cells(row)[:2] for row in lines] == [
            [str(line["index"]), number(line["amax"])] for line in detail["largest"]["channel"]
        ]
        for top in detail["top"].values():
            assert number(top[0]["value"]) in said
            assert f"«{top[0]['token']}»" in said
    planned = next(one for one in plan()["groups"] if one["name"] == group)
    assert planned["reason"] in said


def test_a_row_sorts_by_the_number_behind_its_words() -> None:
    rows = [row for row in analysis()["rows"] if row["role"] in ("input", "weight", "k", "v")]
    shown = table("demo", "Every tensor").rows
    assert [row.cells[6].sort for row in shown] == [row["amax"] for row in rows]


def _facts(name: str) -> dict[str, str]:
    of = report(name).verdict
    return {
        fact.label: fact.value
        for part in of.blocks
        if isinstance(part, Facts)
        for fact in part.facts
    }


def _actions(name: str) -> list[str]:
    items = [part for part in report(name).verdict.blocks if isinstance(part, Items)]
    assert all(isinstance(item[0], Link) for part in items for item in part.items)
    return [text(item) for part in items for item in part.items]
