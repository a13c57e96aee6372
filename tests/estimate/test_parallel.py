"""A model over several GPUs: everything is somewhere, and heads are split as engines split them."""

from __future__ import annotations

import pytest

from fp8scope.errors import BadInput
from fp8scope.estimate.parallel import choices, share
from fp8scope.estimate.served import Served
from tests.estimate.test_bounds import model


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_llama_70b_is_split_evenly_up_to_its_kv_heads(llama_70b: Served, tp: int) -> None:
    part = share(llama_70b, tp)
    split = llama_70b.parameters - llama_70b.others  # norms are on every GPU
    assert part.parameters == split / tp + llama_70b.others
    assert part.kv_bytes_per_token("bf16") == 327_680 / tp


def test_kv_heads_are_repeated_beyond_that(llama_70b: Served) -> None:
    """16 GPUs share 8 KV heads: each has one, as with 8; q, k, v are 4 + 2 heads on each."""
    sixteen, eight = share(llama_70b, 16), share(llama_70b, 8)
    assert sixteen.kv_bytes_per_token("bf16") == eight.kv_bytes_per_token("bf16")
    qkv = next(gemm for gemm in sixteen.gemms if gemm.name.endswith("qkv"))
    assert qkv.shape.out_features == (4 + 2) * 128
    assert share(llama_70b, 8).attention[0].heads == 8


def test_which_side_is_split() -> None:
    part = share(model(hidden=512), 2)
    shapes = {gemm.name: (gemm.shape.out_features, gemm.shape.in_features) for gemm in part.gemms}
    assert shapes["layers.0.self_attn.qkv"] == (64 * 6, 512)
    assert shapes["layers.0.self_attn.o_proj"] == (512, 256)
    assert shapes["layers.0.mlp.gate_up"] == (1536, 512)
    assert shapes["layers.0.mlp.down_proj"] == (512, 768)
    assert shapes["lm_head"] == (500, 512)
    assert (part.embedding, part.others) == (500 * 512, 512)


def test_what_can_share(llama_70b: Served) -> None:
    assert choices(llama_70b) == [1, 2, 4, 8, 16, 32, 64]
    assert choices(model(heads=12, kv=4)) == [1, 2, 4, 12]


@pytest.mark.parametrize(
    ("tp", "words"),
    [
        (3, "--tp 3 does not divide the 64 attention heads of Llama-3-70B → one of 1, 2, 4"),
        (0, "tp is 0"),
    ],
)
def test_refusals(llama_70b: Served, tp: int, words: str) -> None:
    with pytest.raises(BadInput) as refusal:
        share(llama_70b, tp)
    assert words in str(refusal.value)


def test_kv_heads_that_do_not_go_round() -> None:
    with pytest.raises(BadInput, match="--tp 6 neither divides the 4 KV heads of invented nor"):
        share(model(heads=12, kv=4), 6)
