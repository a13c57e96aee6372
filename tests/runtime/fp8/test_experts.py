"""Routed experts in E4M3: the same as a plain loop over tokens and their experts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from fp8scope.runtime.experts import Experts, named_experts
from fp8scope.runtime.fp8.experts import Fp8Experts, Rows, expert_bias
from fp8scope.runtime.fp8.linear import Fp8Linear
from tests import models
from tests.observe.quantized_models import gpt_oss
from tests.runtime.fp8.reference import codes_of, db, normals, weight_scale

TOKENS, TOP_K = 11, 2


def experts_of(name: str) -> Experts:
    model = gpt_oss() if name == "gpt_oss" else models.build(name)
    return copy.deepcopy(next(iter(named_experts(model).values())))


def routing(experts: Experts) -> tuple[Tensor, Tensor]:
    """Experts of each token, of which one gets none."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(TOKENS, experts.count - 1, generator=generator)
    return draws.topk(TOP_K).indices, torch.rand(TOKENS, TOP_K, generator=generator)


def quantized(experts: Experts, stack: str, treatment: str, shards: int = 2) -> list[Rows]:
    """Each expert's slice in runs of rows with scales of their own, as w1 and w3 may have."""
    weights, biases = experts.stacks()[stack].detach(), expert_bias(experts, stack)
    found = []
    for expert, weight in enumerate(weights):
        bias = None if biases is None else biases[expert].detach()
        parts = []
        for rows in torch.arange(len(weight)).chunk(shards):
            scale = weight_scale(weight[rows], treatment)
            static = torch.tensor(0.02 + 0.001 * expert) if treatment == "fp8_tensor" else None
            own = None if bias is None else bias[rows]
            parts.append(Fp8Linear(codes_of(weight[rows], scale), scale, static, own))
        found.append(Rows(parts))
    return found


def loop(experts: Experts, first: Any, last: Any, x: Tensor, index: Tensor, by: Tensor) -> Tensor:
    act = experts.module._apply_gate
    return torch.stack([
        sum(
            by[t, k] * last[int(index[t, k])](act(first[int(index[t, k])](x[t : t + 1])))[0]
            for k in range(TOP_K)
        )
        for t in range(TOKENS)
    ])  # fmt: skip


@pytest.mark.parametrize("treatment", ["fp8_tensor", "fp8_token", "fp8_block"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_as_a_plain_loop(name: str, treatment: str) -> None:
    experts = experts_of(name)
    first = quantized(experts, experts.first, treatment)
    last = quantized(experts, experts.last, treatment, shards=1)
    index, by = routing(experts)
    x = normals(TOKENS, experts.stacks()[experts.first].shape[2])
    want = loop(experts, first, last, x, index, by)
    plain = experts.module(x, index, by)
    fp8 = Fp8Experts(experts, first, last)
    got = fp8(x, index, by)
    assert db(got, want) > 120
    assert 22 < db(got, plain) < 45  # E4M3 is 31.5 dB from what it rounds
    assert not {"gate_up_proj", "down_proj"} & dict(experts.module.named_parameters()).keys()


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("kept", ["first", "last"])
def test_a_stack_that_stays_as_it_is(name: str, kept: str) -> None:
    """Its memory is shared, and the other runs in FP8."""
    experts = experts_of(name)
    stack = getattr(experts, kept)
    pointer = experts.stacks()[stack].data_ptr()
    other = quantized(experts, experts.last if kept == "first" else experts.first, "fp8_token")
    index, by = routing(experts)
    x = normals(TOKENS, experts.stacks()[experts.first].shape[2])
    plain = experts.module(x, index, by)
    first, last = (None, other) if kept == "first" else (other, None)
    fp8 = Fp8Experts(experts, first, last)
    assert 22 < db(fp8(x, index, by), plain) < 45
    kept_module: Any = getattr(fp8, kept)[0]
    assert kept_module.weight.data_ptr() == pointer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_in_fp8_is_the_module_itself(dtype: torch.dtype) -> None:
    experts = experts_of("mixtral")
    experts.module.to(dtype)
    index, by = routing(experts)
    x = normals(TOKENS, models.HIDDEN).to(dtype)
    plain = experts.module(x, index, by.to(dtype))
    got = Fp8Experts(experts, None, None)(x, index, by.to(dtype))
    assert got.dtype is dtype
    assert db(got, plain) > (120 if dtype is torch.float32 else 45)


def test_no_tokens() -> None:
    experts = experts_of("mixtral")
    fp8 = Fp8Experts(experts, quantized(experts, experts.first, "fp8_token"), None)
    nothing = torch.zeros(0, TOP_K)
    assert fp8(torch.zeros(0, models.HIDDEN), nothing.long(), nothing).shape == (0, models.HIDDEN)
