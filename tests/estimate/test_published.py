"""Cases that people published, beside our bounds: what was measured lies within them.

The cases are those of docs/explanation/estimate.md.
"""

from __future__ import annotations

import pytest

from fp8scope.core.gpus import gpu
from fp8scope.core.roofline import Workload
from fp8scope.estimate.api import Estimate, estimate
from fp8scope.estimate.served import Served

LOAD = Workload(32, 2048, 256)
H100 = gpu("h100-sxm")
GB = 1e9


def _whole(of: Estimate, name: str) -> float:
    """Times as many tokens/s as in BF16, prefill included."""
    return of.bounds[name].tokens_per_s / of.bounds["bf16"].tokens_per_s


def test_70b_on_four_h100s_takes_35_and_then_19_gb(llama_70b: Served) -> None:
    """Reported: 35 → 19 GB per GPU. The weights are 35.3 → 18.2 here; FP8 with the activations of
    the largest pass is 18.8. BF16 embedding and lm_head are 1.05 GB of the 18.2.
    """
    found = estimate(llama_70b, H100, tp=4, workload=LOAD).bounds
    assert llama_70b.parameters == 70_553_706_496
    assert found["bf16"].weight_bytes / GB == pytest.approx(35.3, abs=0.05)
    assert found["fp8"].weight_bytes / GB == pytest.approx(18.2, abs=0.05)
    memory = found["fp8"].memory
    assert (memory.weights + memory.activations) / GB == pytest.approx(19, rel=0.02)


def test_in_fp8_it_fits_on_two(llama_70b: Served) -> None:
    found = estimate(llama_70b, H100, tp=2, workload=LOAD).bounds
    assert found["fp8"].fits
    assert found["fp8"].fitting_tp == 2
    assert not found["bf16"].fits
    assert found["bf16"].fitting_tp == 4
    # the weights alone leave no room for this load: two sequences, where FP8 has 92
    assert (found["bf16"].largest_batch, found["fp8"].largest_batch) == (2, 92)


@pytest.mark.parametrize("measured", [1.5, 1.62, 1.83])
def test_published_speed_ups_of_70b_are_within_the_bounds(
    llama_70b: Served, measured: float
) -> None:
    """1.83× with an FP8 KV cache (TensorRT-LLM, 4×H100), 1.62× (vLLM, 8×H100), 1.5× (8×H100)."""
    for tp in (4, 8):
        found = estimate(llama_70b, H100, tp=tp, workload=LOAD, kv_cache="fp8")
        assert measured <= _whole(found, "fp8") <= 2
        assert measured <= found.speedup("fp8", "prefill") <= 2


def test_without_an_fp8_cache_1_83_is_more_than_this_load_allows(llama_70b: Served) -> None:
    """A bound that nothing could break would say nothing."""
    found = estimate(llama_70b, H100, tp=4, workload=LOAD)
    assert 1.62 < _whole(found, "fp8") < 1.83


def test_the_measured_rates_are_below_the_bounds(llama_70b: Served) -> None:
    """2,840 → 5,210 tokens/s per GPU on 4×H100: possible with a large batch and short prompts."""
    found = estimate(llama_70b, H100, tp=4, workload=Workload(512, 128, 128), kv_cache="fp8")
    assert found.bounds["bf16"].fits
    assert found.bounds["bf16"].tokens_per_s / 4 > 2840
    assert found.bounds["fp8"].tokens_per_s / 4 > 5210


def test_int8_weights_do_not_help_prefill(llama2_70b: Served) -> None:
    """Reported slower than FP16: here no faster, for unpacking is not counted."""
    found = estimate(llama2_70b, H100, tp=2, workload=LOAD)
    assert found.speedup("int8_weight", "prefill") == pytest.approx(1, abs=0.001)
    assert found.speedup("int8_weight", "decode") > 1.6
    assert found.speedup("fp8", "prefill") > 1.9


def test_llama2_70b_2_2_times_the_rate_at_twice_the_batch(llama2_70b: Served) -> None:
    """2.2× at batch 64 in FP8 against FP16 at 32; TTFT -30%; TPOT about -30% below batch 8."""
    fp16 = estimate(llama2_70b, H100, tp=4, workload=Workload(32, 2048, 256)).bounds["bf16"]
    fp8 = estimate(llama2_70b, H100, tp=4, workload=Workload(64, 2048, 256), kv_cache="fp8")
    assert fp8.bounds["fp8"].decode_tokens_per_s / fp16.decode_tokens_per_s > 2.2
    small = estimate(llama2_70b, H100, tp=4, workload=Workload(8, 2048, 256)).bounds
    assert small["fp8"].ttft_us / small["bf16"].ttft_us < 0.7
    assert small["fp8"].decode_us / small["bf16"].decode_us < 0.7


def test_one_stream_of_70b_on_a_gb10_crawls(llama_70b: Served) -> None:
    """273 GB/s: 3.86 tokens/s in FP8, half of that in BF16, which does not even fit."""
    found = estimate(llama_70b, gpu("gb10"), workload=Workload(1, 512, 256)).bounds
    assert found["fp8"].sequence_tokens_per_s == pytest.approx(3.86, abs=0.02)
    assert found["bf16"].sequence_tokens_per_s == pytest.approx(1.96, abs=0.02)
    assert (found["bf16"].fits, found["fp8"].fits) == (False, True)
    assert {bounds.decode.bound for bounds in found.values()} == {"memory"}


def test_the_cache_grows_with_batch_and_context(llama_70b: Served) -> None:
    """2·80 layers·8 heads·128·2 bytes = 327,680 per token; FP8 halves it."""
    assert llama_70b.kv_bytes_per_token("bf16") == 327_680
    assert llama_70b.kv_bytes_per_token("fp8") == 163_840
    for batch, context in ((1, 2048), (32, 2048), (32, 8192)):
        load = Workload(batch, context, 256)
        memory = estimate(llama_70b, H100, workload=load).bounds["bf16"].memory
        assert memory.cache == 327_680 * batch * (context + 256)


def test_a_row_wise_8b_is_1_46_and_1_21_times_as_fast(llama_8b: Served) -> None:
    """torchao's row-wise Llama-3.1-8B on vLLM: prefill 1.46×, decode 1.21×. The bounds of the same
    with static scales are above both.
    """
    found = estimate(llama_8b, H100, workload=Workload(8, 2048, 256))
    assert found.speedup("fp8", "prefill") > 1.46
    assert found.speedup("fp8", "decode") > 1.21


def test_h100s_turn_from_memory_to_arithmetic_near_batch_300(llama_70b: Served) -> None:
    """A byte of FP8 weight is 2 operations per sequence: 1979e12 / 3350e9 / 2 = 295, and a little
    more as activations are read too. The cache of 2,176 tokens never lets it turn.
    """
    found = estimate(llama_70b, H100, tp=4, workload=LOAD).bounds
    for name in ("bf16", "fp8"):
        assert found[name].matmuls_turn_at == pytest.approx(295, rel=0.15)
        assert found[name].decode_turns_at is None
    short = estimate(llama_70b, H100, tp=4, workload=Workload(32, 16, 16)).bounds["fp8"]
    assert short.decode_turns_at is not None
    assert short.decode_turns_at > short.matmuls_turn_at  # type: ignore[operator]
