"""Bounds against sums done by hand, and what must hold for any model, GPU and load."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp8scope.core.gpus import GPUS, Gpu, gpu
from fp8scope.core.roofline import GemmShape, Workload
from fp8scope.estimate.api import estimate
from fp8scope.estimate.bounds import pairs
from fp8scope.estimate.memory import last
from fp8scope.estimate.served import Attention, Gemm, Served

H100 = gpu("h100-sxm")


def model(
    *, layers: int = 2, hidden: int = 512, heads: int = 8, kv: int = 2, experts: int = 0
) -> Served:
    """A Llama of 64-wide heads, MLPs 3 times as wide as the model, 1000 words."""
    gemms, attention = [], []
    for i in range(layers):
        block = f"layers.{i}"
        width = 64 * heads
        attention.append(Attention(f"{block}.attn", heads, kv, 64, 64, 64, 64, 64, 64))
        for name, rows, columns in (
            ("self_attn.qkv", 64 * (heads + 2 * kv), hidden),
            ("self_attn.o_proj", hidden, width),
        ):
            gemms.append(Gemm(f"{block}.{name}", "linear", GemmShape(columns, rows)))
        for name, rows, columns in (("gate_up", 6, 1), ("down_proj", 1, 3)):
            shape = GemmShape(columns * hidden, rows * hidden, experts)
            gemms.append(Gemm(f"{block}.mlp.{name}", "expert" if experts else "linear", shape))
    gemms.append(Gemm("lm_head", "lm_head", GemmShape(hidden, 1000, sampled=True)))
    return Served(
        "invented", "model", tuple(gemms), tuple(attention), hidden, heads, kv, 2,
        embedding=1000 * hidden, others=hidden,
    )  # fmt: skip


MODELS = st.builds(
    model,
    layers=st.integers(1, 3),
    hidden=st.sampled_from([256, 512, 4096]),
    kv=st.sampled_from([1, 2, 8]),
    experts=st.sampled_from([0, 8]),
)
LOADS = st.builds(Workload, st.integers(1, 300), st.integers(1, 9000), st.integers(1, 2000))
MACHINES = st.sampled_from(list(GPUS.values()))
few = settings(max_examples=15, deadline=None)


def test_decode_reads_weights_and_half_of_the_answer() -> None:
    """One layer, batch 4, 1000 + 200/2 tokens: 4·1100·2·2·64·2 bytes of cache."""
    served = model(layers=1)
    found = estimate(served, H100, workload=Workload(4, 1000, 200)).bounds["bf16"]
    weights = 2 * (512 * 64 * 12 + 512 * 512 + 9 * 512 * 512 + 512 * 1000)
    assert found.reads.weights == weights
    assert found.reads.cache == 4 * 1100 * 2 * 2 * 64 * 2
    assert found.decode_us > (weights + found.reads.cache) / 3350e3
    assert found.decode_reads == weights + found.reads.cache


def test_attention_adds_its_arithmetic_to_prefill() -> None:
    """2·8 heads·(64 + 64)·pairs operations in BF16, in every variant alike."""
    served = model(layers=1)
    load = Workload(2, 8192, 16)
    bare = replace(served, attention=())
    with_it, without = (estimate(each, H100, workload=load).bounds for each in (served, bare))
    operations = 2 * 8 * 128 * 2 * 8192 * 8193 // 2
    for name in with_it:
        extra = with_it[name].prefill.compute_us - without[name].prefill.compute_us
        assert extra == pytest.approx(operations / 989.5e6)


@pytest.mark.parametrize(
    ("tokens", "window", "found"), [(4, None, 10), (4, 4, 10), (4, 2, 7), (1, 1, 1), (5, 1, 5)]
)
def test_pairs(tokens: int, window: int | None, found: int) -> None:
    assert pairs(tokens, window) == found
    assert sum(min(i, window or tokens) for i in range(1, tokens + 1)) == found


@given(st.integers(0, 100), st.integers(1, 100))
def test_the_last_that_holds(limit: int, most: int) -> None:
    assert last(lambda number: number <= limit, most) == min(limit, most)


def test_activations_by_hand() -> None:
    """8192 tokens: residual and normed copy of 512, gate_up's 512 → 3072; logits in 6 bytes."""
    served = model()
    memory = estimate(served, H100, workload=Workload(8, 4096, 16)).bounds["bf16"].memory
    assert memory.activations == 8192 * 2 * (2 * 512 + 512 + 3072) + 8 * 6 * 1000
    assert memory.usable == pytest.approx(72e9)


def test_where_it_turns_is_where_it_turns() -> None:
    """A step at that batch is bound by arithmetic, and one sequence less is not."""
    served, load = model(hidden=4096), Workload(8, 4, 2)
    turns = estimate(served, H100, workload=load).bounds["fp8"].decode_turns_at
    assert turns is not None
    for batch, bound in ((turns - 1, "memory"), (turns, "compute")):
        found = estimate(served, H100, workload=replace(load, batch=batch)).bounds["fp8"]
        assert found.decode.bound == bound


@few
@given(MODELS, MACHINES, LOADS)
def test_fp8_is_never_larger_nor_slower_and_at_most_twice_as_fast(
    served: Served, machine: Gpu, load: Workload
) -> None:
    found = estimate(served, machine, workload=load)
    bf16, fp8, int8 = (found.bounds[name] for name in ("bf16", "fp8", "int8_weight"))
    assert fp8.memory.needed <= bf16.memory.needed
    assert fp8.largest_batch >= bf16.largest_batch
    for speedup in (found.speedup("fp8", "prefill"), found.speedup("fp8", "decode")):
        assert 1 - 1e-6 <= speedup <= 2 + 1e-6
    assert int8.prefill.compute_us == pytest.approx(bf16.prefill.compute_us)
    if not found.gpu.has_fp8:
        assert fp8.prefill.compute_us == pytest.approx(bf16.prefill.compute_us)
    assert found.other_cache.decode_us <= fp8.decode_us
    assert found.other_cache.memory.cache == fp8.memory.cache / 2


@few
@given(MODELS, MACHINES, LOADS, st.floats(1, 10))
def test_a_better_gpu_is_never_slower(
    served: Served, machine: Gpu, load: Workload, times: float
) -> None:
    for better in (
        replace(machine, bandwidth_gb_s=machine.bandwidth_gb_s * times),
        replace(machine, tflops={name: rate * times for name, rate in machine.tflops.items()}),
        replace(machine, memory_gb=machine.memory_gb * times),
    ):
        old, new = (estimate(served, each, workload=load) for each in (machine, better))
        for name, bounds in old.bounds.items():
            assert new.bounds[name].prefill_us <= bounds.prefill_us
            assert new.bounds[name].decode_us <= bounds.decode_us
            assert new.bounds[name].largest_batch >= bounds.largest_batch


@few
@given(MODELS, LOADS)
def test_what_is_said_to_fit_fits(served: Served, load: Workload) -> None:
    small = replace(gpu("l4"), memory_gb=2.0)
    found = estimate(served, small, workload=load)
    for name, bounds in found.bounds.items():
        assert bounds.fits == (bounds.largest_batch >= load.batch)
        assert bounds.fits == (bounds.fitting_tp == 1)
        if bounds.fitting_tp:
            shared = estimate(served, small, tp=bounds.fitting_tp, workload=load)
            assert shared.bounds[name].fits


@few
@given(MODELS, LOADS)
def test_a_longer_or_larger_load_takes_longer(served: Served, load: Workload) -> None:
    for more in (replace(load, batch=load.batch + 1), replace(load, context=load.context + 1)):
        old, new = (estimate(served, H100, workload=each).bounds["fp8"] for each in (load, more))
        assert new.prefill_us > old.prefill_us
        assert new.decode_us > old.decode_us
        assert new.memory.cache > old.memory.cache
