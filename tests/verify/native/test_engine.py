"""What an engine says of itself is how it computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fp8scope.errors import BadInput, BadModel
from fp8scope.verify.native.engine import open_engine
from fp8scope.verify.native.prompts import prompts
from tests.verify.native import engines

Q = "model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize("treatment", ["fp8_tensor", "fp8_token"])
def test_every_linear_is_in_fp8(treatment: str) -> None:
    engine = engines.engine("llama", treatment)
    linears = {linear.name for linear in engine.structure.linears} - {"lm_head"}
    assert engine.held == dict.fromkeys(linears, treatment)
    assert set(engine.in_fp8) == linears
    assert engine.kv_cache == "fp8"
    assert engine.notes == (
        "keys and values are held in E4M3, and multiplied out before attention, which is not FP8",
    )


def test_experts_by_their_stacks() -> None:
    engine = engines.engine("mixtral")
    stacks = {linear.name for linear in engine.structure.linears if linear.experts}
    assert len(stacks) == 4
    assert stacks <= set(engine.in_fp8)
    assert not any("gate" in name.split(".")[-1] for name in set(engine.in_fp8) - stacks)


def test_blocks_are_not_multiplied_in_fp8() -> None:
    """They are held so, and the difference is said."""
    engine = engines.engine("llama", "fp8_block")
    assert len(engine.held) == 14
    assert engine.in_fp8 == ()
    assert engine.notes[0] == (
        "14 linears, e.g. model.layers.0.self_attn.q_proj: FP8 per block, but multiplied in the "
        "model's dtype (this engine has no FP8 GEMM with block scales)"
    )


def test_one_linear_by_its_weight_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """13 GEMMs of 14 are in FP8, and the note names the other."""
    calls: list[Any] = []
    multiply = torch._scaled_mm

    def counted(*operands: Any, **settings: Any) -> Tensor:
        calls.append(operands)
        return multiply(*operands, **settings)

    monkeypatch.setattr(torch, "_scaled_mm", counted)
    order = engines.order(engines.checkpoint("llama"), weight_only=(Q,))
    engine = open_engine(order)
    with torch.no_grad():
        engine.next_token(prompts(engine, order), engine.cache())
    assert len(calls) == len(engine.in_fp8) == 13
    assert Q in engine.held
    assert Q not in engine.in_fp8
    assert engine.notes[0] == f"{Q}: FP8 per tensor, static, but multiplied in the model's dtype"


def test_the_baseline() -> None:
    order = engines.order(engines.plain("llama"), baseline=True)
    engine = open_engine(order)
    assert (engine.held, engine.in_fp8, engine.kv_cache) == ({}, (), "bf16")
    assert len(engine.structure.linears) == 15
    assert next(engine.model.parameters()).dtype is torch.bfloat16


def test_the_output_layer_is_asked_for_one_position() -> None:
    order = engines.order(engines.checkpoint("llama"))
    engine = open_engine(order)
    seen: list[tuple[int, ...]] = []
    head: Any = engine.model.get_submodule("lm_head")
    head.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape)))
    with torch.no_grad():
        engine.next_token(prompts(engine, order), engine.cache())
    assert seen == [(2, 1, engines.VOCABULARY)]


def test_refusals() -> None:
    fp8, bf16 = engines.checkpoint("llama"), engines.plain("llama")
    with pytest.raises(BadInput, match=r"takes 128 tokens, and 131 are asked for"):
        open_engine(engines.order(fp8, prompt_len=125))
    with pytest.raises(BadInput, match="no_such is no linear in FP8"):
        open_engine(engines.order(fp8, weight_only=("no_such",)))
    with pytest.raises(BadInput, match="is no FP8 checkpoint"):
        open_engine(engines.order(bf16, baseline=True, weight_only=(Q,)))
    with pytest.raises(BadModel, match="already quantized"):
        open_engine(engines.order(fp8, baseline=True))
