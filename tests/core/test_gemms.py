"""Which linears are one GEMM, what can be smoothed, and what that ties together, by family."""

from __future__ import annotations

from functools import cache

import pytest

from fp8scope.core.gemms import Unit, routers, units
from fp8scope.core.structure import Linear, Structure
from fp8scope.runtime.structure import discover
from tests import models

# Of one block: group → whether smoothable, and its readers.
Block = dict[str, tuple[bool, tuple[str, ...]]]


def _llama(smoothable: bool = True) -> Block:
    return {
        "self_attn.qkv": (smoothable, ("self_attn.o_proj",)),
        "self_attn.o_proj": (True, ()),
        "mlp.gate_up": (smoothable, ("mlp.down_proj",)),
        "mlp.down_proj": (True, ()),
    }


ROUTED: Block = {
    "self_attn.qkv": (True, ("self_attn.o_proj",)),
    "self_attn.o_proj": (True, ()),
    "mlp.experts": (True, ()),
}
PHI3: Block = {
    "self_attn.o_proj": (True, ()),
    "self_attn.qkv_proj": (True, ("self_attn.o_proj",)),
    "mlp.gate_up_proj": (True, ("mlp.down_proj",)),
    "mlp.down_proj": (True, ()),
}
NEOX: Block = {
    "attention.query_key_value": (True, ("attention.dense",)),
    "attention.dense": (True, ()),
    "mlp.dense_h_to_4h": (True, ()),
    "mlp.dense_4h_to_h": (False, ()),
}
GPT2: Block = {
    "attn.c_attn": (True, ("attn.c_proj",)),
    "attn.c_proj": (True, ()),
    "mlp.c_fc": (True, ()),
    "mlp.c_proj": (False, ()),
}


def _opt(pre_norm: bool) -> Block:
    return {
        "self_attn.qkv": (pre_norm, ("self_attn.out_proj",)),
        "self_attn.out_proj": (True, ()),
        "fc1": (pre_norm, ("fc2",)),
        "fc2": (True, ()),
    }


LATENT: Block = {
    "self_attn.qkv_a": (True, ()),
    "self_attn.q_b_proj": (True, ()),
    "self_attn.kv_b_proj": (True, ("self_attn.o_proj",)),
    "self_attn.o_proj": (True, ()),
}
LITE: Block = {
    "self_attn.q_proj": (True, ()),
    "self_attn.kv_a_proj_with_mqa": (True, ()),
    "self_attn.kv_b_proj": (True, ("self_attn.o_proj",)),
    "self_attn.o_proj": (True, ()),
}
DENSE: Block = {
    "mlp.gate_up": (True, ("mlp.down_proj",)),
    "mlp.down_proj": (True, ()),
}
SHARED: Block = {
    "mlp.experts": (True, ()),
    "mlp.shared_experts.gate_up": (True, ("mlp.shared_experts.down_proj",)),
    "mlp.shared_experts.down_proj": (True, ()),
}
WANT: dict[str, tuple[Block, Block]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), (_llama(), _llama())),
    **dict.fromkeys(("gemma2", "gemma3_text"), (_llama(False), _llama(False))),
    "mixtral": (ROUTED, ROUTED),
    "qwen3_moe": (ROUTED, _llama()),
    "phi3": (PHI3, PHI3),
    "gpt_neox": (NEOX, NEOX),
    "gpt_neox_sequential": (NEOX, NEOX),
    "gpt2": (GPT2, GPT2),
    "opt": (_opt(True), _opt(True)),
    "opt_post_norm": (_opt(False), _opt(False)),
    "deepseek_v2": ({**LATENT, **DENSE}, {**LATENT, **SHARED}),
    "deepseek_v2_lite": ({**LITE, **DENSE}, {**LITE, **SHARED}),
    "deepseek_v3": ({**LATENT, **DENSE}, {**LATENT, **SHARED}),
}


@cache
def structure(name: str) -> Structure:
    return discover(models.build(name))


def _unit(name: str, suffix: str) -> Unit:
    return next(unit for unit in units(structure(name)) if unit.name.endswith(suffix))


@pytest.mark.parametrize("name", models.KNOWN)
def test_what_smoothing_ties_together(name: str) -> None:
    found = {unit.name: unit for unit in units(structure(name))}
    for block, want in zip(structure(name).blocks, WANT[name], strict=True):
        inside = {n.removeprefix(f"{block}."): u for n, u in found.items() if n.startswith(block)}
        got = {
            short: (u.smoothable, tuple(r.removeprefix(f"{block}.") for r in u.readers))
            for short, u in inside.items()
        }
        assert got == want
    outside = [u for n, u in found.items() if not n.startswith(structure(name).blocks)]
    assert not any(unit.smoothable or unit.readers for unit in outside)


@pytest.mark.parametrize("name", models.CONFIGS)
def test_every_linear_but_the_routers_is_in_one_gemm(name: str) -> None:
    shape = structure(name)
    members = [m for unit in units(shape) for gemm in unit.gemms for m in gemm.members]
    everything = {linear.name for linear in shape.linears}
    assert len(members) == len(set(members))
    assert set(members) | routers(shape) == everything
    assert not set(members) & routers(shape)
    for unit in units(shape):
        for gemm in unit.gemms:
            inputs = {f.producer for m in gemm.members for f in shape.folds if m in f.consumers}
            assert len(inputs) <= 1, "members read one tensor"
            assert set(gemm.output_folds) <= set(gemm.members)
            assert all(fold.producer == m for m, fold in gemm.output_folds.items())


@pytest.mark.parametrize(
    ("name", "blocks"), [("mixtral", [0, 1]), ("qwen3_moe", [0]), ("deepseek_v3", [1])]
)
def test_experts_are_two_gemms_and_the_router_is_none(name: str, blocks: list[int]) -> None:
    assert routers(structure(name)) == {f"model.layers.{block}.mlp.gate" for block in blocks}
    first, last = _unit(name, "mlp.experts").gemms
    stacks = [f"model.layers.{blocks[0]}.mlp.experts.{part}_proj" for part in ("gate_up", "down")]
    assert [first.members, last.members] == [(stack,) for stack in stacks]
    assert first.experts == last.experts > 0
    assert first.input_fold is not None
    assert first.input_fold.kind == "norm"
    assert first.output_folds == {stacks[0]: last.input_fold}


def test_no_router_without_experts_of_as_many() -> None:
    def linear(name: str, out: int, experts: int = 0) -> Linear:
        return Linear(name, 8, out, False, False, None, None, experts)

    stack = linear("mlp.moe.down_proj", 8, experts=4)
    beside = [linear("mlp.gate", 4), linear("mlp.shared_gate", 1), linear("gate", 4)]
    beside += [linear("mlp.shared_up", 8), linear("score", 1)]
    shape = Structure(None, (), (stack, *beside), (), (), ())
    assert routers(shape) == {"mlp.gate", "mlp.shared_gate"}
    top = Structure(None, (), (linear("experts.down_proj", 8, 4), *beside), (), (), ())
    assert routers(top) == {"gate", "score"}


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_one_norm_before_shared_and_routed_experts(name: str) -> None:
    shared, routed = (_unit(name, f"mlp.{part}") for part in ("shared_experts.gate_up", "experts"))
    assert shared.gemms[0].input_fold == routed.gemms[0].input_fold


def test_gemma_s_norms_take_no_factors() -> None:
    assert all(
        gemm.input_fold is None or gemm.input_fold.kind == "linear"
        for unit in units(structure("gemma2"))
        for gemm in unit.gemms
    )
