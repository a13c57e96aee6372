"""Ranges are where the modules run, and nowhere when there are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fp8scope.verify.native.engine import Engine, open_engine
from fp8scope.verify.native.generators import Eager
from fp8scope.verify.native.prompts import prompts
from fp8scope.verify.native.tagged import run_tagged
from fp8scope.verify.native.tags import tags
from tests.verify.native import engines


class Written:
    """A marker that writes down the ranges around each range it opens."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.seen: list[tuple[str, ...]] = []

    def push(self, name: str) -> None:
        self.open.append(name)
        self.seen.append(tuple(self.open))

    def pop(self) -> None:
        self.open.pop()


def marked(name: str, treatment: Any = "fp8_tensor") -> tuple[Written, Any]:
    order = engines.order(engines.checkpoint(name, treatment))
    engine, marker = open_engine(order), Written()
    with torch.no_grad(), tags(engine.model, engine.structure, [marker]) as phase, phase("prefill"):
        Eager(engine).prefill(prompts(engine, order))
    return marker, engine


@pytest.mark.parametrize("name", ["llama", "phi3", "gemma2", "mixtral"])
def test_every_linear_has_its_range(name: str) -> None:
    """Once, inside its phase, and those of attention inside the module that fills the cache."""
    marker, engine = marked(name)
    assert not marker.open
    linears = {linear.name: linear for linear in engine.structure.linears}
    attention = {layer.attention for layer in engine.structure.kv_layers}
    inner = [ranges[-1] for ranges in marker.seen]
    assert set(inner) == {"prefill"} | linears.keys() | attention
    for ranges in marker.seen[1:]:
        inside = ranges[-1].rpartition(".")[0]
        parents = ["prefill", inside] if inside in attention else ["prefill"]
        assert list(ranges[:-1]) == parents
        assert inner.count(ranges[-1]) == 1 or linears[ranges[-1]].experts
    assert not any("/" in name for name in inner)


def test_an_expert_s_gemm_is_in_the_range_of_its_stack() -> None:
    marker, engine = marked("mixtral")
    stacks = [linear.name for linear in engine.structure.linears if linear.experts]
    for stack in stacks:
        ran = [ranges for ranges in marker.seen if ranges[-1] == stack]
        assert 2 <= len(ran) <= 4  # of 4 experts, those that tokens chose


def test_experts_in_bf16_are_one_range() -> None:
    order = engines.order(engines.plain("mixtral"), baseline=True)
    engine, marker = open_engine(order), Written()
    with torch.no_grad(), tags(engine.model, engine.structure, [marker]):
        Eager(engine).prefill(prompts(engine, order))
    names = [ranges[-1] for ranges in marker.seen]
    assert names.count("model.layers.0.mlp.experts") == 1
    assert names.count("model.layers.0.mlp.gate") == 1


def test_nothing_is_left() -> None:
    """Also where the model raises: no hook, no open range."""
    engine, marker = engines.engine("llama"), Written()
    broken = engine.model.get_submodule("model.layers.0.self_attn.o_proj")

    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("in the middle")

    broken.forward = fail
    with pytest.raises(RuntimeError, match="in the middle"):
        run_in_tags(engine, marker)
    assert not marker.open
    assert marker.seen[-1][-1] == "model.layers.0.self_attn.o_proj"
    for module in engine.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@torch.no_grad()
def run_in_tags(engine: Engine, marker: Written) -> None:
    with tags(engine.model, engine.structure, [marker]) as phase, phase("prefill"):
        Eager(engine).prefill(torch.zeros(1, 3, dtype=torch.long))


def test_a_torch_trace_holds_them(tmp_path: Path) -> None:
    """Each FP8 linear's GEMM lies in the range of its name, in one prefill and three steps."""
    order = engines.order(engines.checkpoint("mixtral"), tmp_path, what="tagged", watcher="torch")
    engine = open_engine(order)
    run_tagged(engine, order)
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    ranges = [e for e in events if e.get("cat") == "user_annotation" and named(e)]
    phases = [e for e in ranges if named(e) in {"prefill", "decode"}]
    assert sorted(map(named, phases)) == ["decode"] * 3 + ["prefill"]
    gemms = [e for e in events if e.get("name") == "aten::_scaled_mm"]
    for phase in phases:
        inside = {named(e) for e in ranges if e is not phase and around(phase, e)}
        assert inside == {
            *(linear.name for linear in engine.structure.linears),
            *(layer.attention for layer in engine.structure.kv_layers),
        }
        ran = {innermost(ranges, gemm) for gemm in gemms if around(phase, gemm)}
        assert ran == set(engine.in_fp8)


def named(event: dict[str, Any]) -> str:
    head, _, name = str(event["name"]).partition("fp8scope:")
    return "" if head else name


def around(outer: dict[str, Any], inner: dict[str, Any]) -> bool:
    ends = (event["ts"] + event["dur"] for event in (inner, outer))
    return bool(outer["ts"] <= inner["ts"] and next(ends) <= next(ends))


def innermost(ranges: list[dict[str, Any]], event: dict[str, Any]) -> str:
    found: Iterator[dict[str, Any]] = (outer for outer in ranges if around(outer, event))
    return named(max(found, key=lambda outer: float(outer["ts"])))
