"""Predicted times against sums done by hand, and what must hold for any shape and workload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8scope.core.gpus import GPUS, Gpu, gpu
from fp8scope.core.roofline import GemmShape, Pass, Roofline, Workload
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.core.structure import KVLayer
from fp8scope.errors import BadInput

H100 = gpu("h100-sxm")
SQUARE = GemmShape(8192, 8192)
SIZES = st.integers(1, 256).map(lambda n: 64 * n)
SHAPES = st.builds(GemmShape, SIZES, SIZES, st.sampled_from([0, 1, 8, 64, 256]))
WORKLOADS = st.builds(Workload, st.integers(1, 1024), st.integers(1, 32768), st.integers(1, 4096))
MACHINES = st.sampled_from(list(GPUS.values()))
TIMED = ("bf16", *DEFAULT_CANDIDATES)


def _gemm(candidate: str, tokens: float, shape: GemmShape = SQUARE, on: Gpu = H100) -> float:
    return Roofline(on, Workload()).gemm_time_us(shape, candidate, tokens)


def test_decode_takes_as_long_as_reading_the_weights() -> None:
    """8192×8192 is 134 MB in BF16, 67 MB in FP8; an H100 reads 3.35 GB in 1000 µs."""
    activations = 32 * 8192 / 3350e3
    assert _gemm("bf16", 32) == pytest.approx(40.06 + 4 * activations, abs=0.01)
    assert _gemm("fp8_tensor", 32) == pytest.approx(20.03 + 3 * activations, abs=0.01)
    assert _gemm("bf16", 32) == pytest.approx(40, rel=0.02)
    assert _gemm("fp8_tensor", 32) == pytest.approx(20, rel=0.02)


def test_prefill_takes_as_long_as_the_arithmetic() -> None:
    """2·8192³ operations: 1.1 ms at 989.5 TFLOPS, half at 1979."""
    assert _gemm("bf16", 8192) == pytest.approx(2 * 8192**3 / 989.5e6)
    assert _gemm("bf16", 8192) / _gemm("fp8_tensor", 8192) == pytest.approx(2)


@pytest.mark.parametrize("tokens", [32, 8192])
def test_a_dynamic_scale_costs_a_pass_over_the_input(tokens: int) -> None:
    """2 bytes read and 1 written per element: 60 µs of 8192×8192 on an H100; and the scales."""
    element = 3 * tokens * 8192 / 3350e3
    token = _gemm("fp8_token", tokens) - _gemm("fp8_tensor", tokens)
    block = _gemm("fp8_block", tokens) - _gemm("fp8_tensor", tokens)
    assert token == pytest.approx(element, abs=0.03)
    assert block == pytest.approx(element * (1 + 4 / 128 / 3), abs=0.03)
    assert _gemm("fp8_smooth", tokens) == _gemm("fp8_tensor", tokens)


def test_scales_are_read() -> None:
    """One token, so that they show: 4 bytes per row, per 128×128, or in all; and the input's."""
    shape = GemmShape(8192, 1000)
    plain = 8192 * 1000 + 8192 + 2 * 1000
    quantizing = 3 * 8192
    expected = {
        "fp8_tensor": plain + 4 + 4,
        "fp8_token": plain + quantizing + 4 * 1000 + 2 * 4,
        "fp8_block": plain + quantizing + 4 * 64 * 8 + 2 * 4 * 64,
    }
    for candidate, size in expected.items():
        assert _gemm(candidate, 1, shape) * 3350e3 == pytest.approx(size)


def test_without_fp8_tensor_cores_only_the_weights_are_smaller() -> None:
    """An A100: half the bytes in decode, nothing gained in prefill, no pass over the input."""
    a100 = gpu("a100")
    decode, prefill = [
        {name: _gemm(name, tokens, on=a100) for name in TIMED} for tokens in (1, 8192)
    ]
    assert decode["bf16"] / decode["fp8_tensor"] == pytest.approx(2, rel=0.01)
    assert {prefill[name] for name in TIMED} == {2 * 8192**3 / 312 / 1e6}
    int8 = _gemm("int8_tensor", 8192, on=a100)
    assert prefill["bf16"] / int8 == pytest.approx(2)


def test_int8_weights_do_not_help_prefill() -> None:
    assert _gemm("int8_weight", 8192) == _gemm("bf16", 8192)
    assert _gemm("int8_weight", 1) == pytest.approx(_gemm("bf16", 1) / 2, rel=0.01)


@pytest.mark.parametrize(("tokens", "hit"), [(1, 2.0), (2, 3.5), (1000, 8.0)])
def test_the_experts_that_a_batch_hits(tokens: int, hit: float) -> None:
    """8 experts, 2 per token: of two tokens' four choices, half of one falls on another's."""
    roofline = Roofline(replace(H100, tflops={"bf16": 1e9}), Workload(), experts_per_token=2)
    stack = GemmShape(4096, 14336, experts=8)
    weight, activations = 2 * 4096 * 14336, 2 * tokens * 2 * (4096 + 14336)
    found = roofline.gemm_time_us(stack, "bf16", tokens) * 3350e3
    assert found == pytest.approx(hit * weight + activations)


def test_all_experts_of_a_small_stack() -> None:
    """A stack of one with 8 per token is a plain GEMM."""
    assert _gemm("bf16", 5, replace(SQUARE, experts=1)) == pytest.approx(_gemm("bf16", 5))


def test_a_group_is_the_sum_of_its_gemms() -> None:
    roofline = Roofline(H100, Workload(), experts_per_token=2)
    stacks = [GemmShape(4096, 28672, 8), GemmShape(14336, 4096, 8)]
    apart = sum(roofline.unit_time_us([stack], "fp8_block") for stack in stacks)
    assert roofline.unit_time_us(stacks, "fp8_block") == pytest.approx(apart)


@pytest.mark.parametrize(
    ("workload", "passes"),
    [
        # a prompt of 2048 tokens every 8 steps
        (Workload(32, 2048, 256), [Pass(7 / 8, 32), Pass(1 / 8, 2080)]),
        # two prompts arrive in each step, and go through together
        (Workload(64, 1024, 32), [Pass(1, 64 + 2048)]),
        # a long prompt is cut
        (Workload(1, 16384, 512), [Pass(1 - 32 / 8192, 1), Pass(32 / 8192, 8193)]),
        # four chunks arrive in each step: decode rides on one of them
        (Workload(512, 4096, 64), [Pass(1, 512 + 8192), Pass(3, 8192)]),
    ],
)
def test_the_passes_of_a_step(workload: Workload, passes: list[Pass]) -> None:
    assert list(workload.passes) == passes


@given(WORKLOADS)
def test_a_step_decodes_each_sequence_once_and_keeps_the_batch_full(workload: Workload) -> None:
    prompt = workload.batch * workload.context / workload.generate
    tokens = sum(each.times * each.tokens for each in workload.passes)
    assert tokens == pytest.approx(workload.batch + prompt)
    assert all(each.times > 0 for each in workload.passes)


def test_lm_head_reads_only_the_tokens_that_are_drawn_from() -> None:
    roofline = Roofline(H100, Workload())
    head = GemmShape(4096, 128256)
    drawn = roofline.unit_time_us([replace(head, sampled=True)], "bf16")
    assert drawn == roofline.gemm_time_us(head, "bf16", 32)
    assert drawn < roofline.unit_time_us([head], "bf16")


@given(MACHINES, WORKLOADS, SHAPES)
def test_static_fp8_is_never_slower(on: Gpu, workload: Workload, shape: GemmShape) -> None:
    """Than BF16, nor than dynamic FP8; these can be slower than BF16, where a GEMM is narrow."""
    times = {name: Roofline(on, workload).unit_time_us([shape], name) for name in TIMED}
    assert times["fp8_smooth"] == times["fp8_tensor"]
    for other in ("fp8_token", "fp8_block", "bf16"):
        assert times["fp8_tensor"] <= times[other] * (1 + 1e-12)
    assert times["bf16"] <= 2.01 * times["fp8_tensor"]


def test_dynamic_fp8_can_be_slower_than_bf16() -> None:
    narrow = GemmShape(8192, 256)
    assert _gemm("fp8_token", 8192, narrow) > _gemm("bf16", 8192, narrow)


@given(MACHINES, WORKLOADS, SHAPES, st.sampled_from(TIMED), st.integers(1, 512))
def test_more_work_never_takes_less_time(
    on: Gpu, workload: Workload, shape: GemmShape, candidate: str, more: int
) -> None:
    def step(load: Workload, of: GemmShape = shape) -> float:
        return Roofline(on, load).unit_time_us([of], candidate)

    least = step(workload) * (1 - 1e-12)
    assert step(replace(workload, batch=workload.batch + more)) >= least
    assert step(workload, replace(shape, in_features=shape.in_features + more)) >= least
    assert step(workload, replace(shape, out_features=shape.out_features + more)) >= least


def test_the_cache_of_a_decode_step() -> None:
    """32 sequences of 2048 + 128 tokens, 8 heads of 128, K and V, 2 bytes: 285 MB, 85 µs."""
    roofline = Roofline(H100, Workload(32, 2048, 256))
    layer = KVLayer(0, "model.layers.0.self_attn", 8, 128)
    time = roofline.kv_time_us(layer, "bf16")
    assert time == pytest.approx(32 * 2176 * 2 * 8 * 128 * 2 / 3350e3)
    assert time == pytest.approx(85, abs=0.2)
    assert roofline.kv_time_us(layer, "fp8_tensor") == pytest.approx(time / 2)
    assert roofline.kv_time_us(layer, "fp8_unit") == pytest.approx(time / 2)


def test_mla_caches_one_vector() -> None:
    roofline = Roofline(H100, Workload())
    latent = KVLayer(0, "model.layers.0.self_attn", 1, 576, latent_dim=512)
    both = replace(latent, latent_dim=0)
    assert 2 * roofline.kv_time_us(latent, "bf16") == roofline.kv_time_us(both, "bf16")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Workload(batch=0), "batch is 0 → give a whole number above 0"),
        (lambda: Workload(context=-1), "context is -1"),
        (lambda: Workload(generate=2.5), "generate is 2.5"),  # type: ignore[arg-type]
        (lambda: Workload(batch=True), "batch is True"),
        (lambda: Roofline(H100, Workload(), 0), "experts_per_token is 0"),
        (lambda: _gemm("nvfp4", 1), "'nvfp4' cannot be predicted → one of bf16, fp8_tensor"),
        (
            lambda: Roofline(H100, Workload()).kv_time_us(KVLayer(0, "a", 1, 1), "fp8_token"),
            "'fp8_token' cannot be predicted → one of bf16, fp8_tensor, fp8_unit",
        ),
    ],
)
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(BadInput) as refusal:
        call()
    assert message in str(refusal.value)
