"""DeepSeek-V2 and V3: latent attention (MLA), then a dense MLP or shared and routed experts.

Fused groups: vLLM (`fused_qkv_a_proj`) and SGLang (`fused_qkv_a_proj_with_mqa`) run q_a_proj
and kv_a_proj_with_mqa as one GEMM. Without q_lora_rank (V2-Lite) q_proj is split over the ranks
and kv_a_proj_with_mqa is not, so neither fuses them. Both fuse gate and up, of the shared
experts too. (SGLang, and vLLM on ROCm, may run the shared experts as one more routed expert:
that ties them to the routed experts in addition, which is not described here.)
"""

from __future__ import annotations

from typing import Any

from fp8scope.core.structure import Fold, KVLayer
from fp8scope.runtime.families import moe
from fp8scope.runtime.families.family import (
    BlockContext,
    Family,
    Rows,
    linear_fold,
    norm_fold,
    out_features,
)

Q, Q_A, Q_B = "self_attn.q_proj", "self_attn.q_a_proj", "self_attn.q_b_proj"
KV_A, KV_B, OUT = "self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj", "self_attn.o_proj"
DENSE, SHARED = (
    tuple(f"{mlp}.{part}_proj" for part in ("gate", "up", "down"))
    for mlp in ("mlp", "mlp.shared_experts")
)


def _value_rows(config: Any) -> Rows:
    """Rows of the values in kv_b_proj: each head holds its keys without rope, then its values."""
    keys, values = config.qk_nope_head_dim, config.v_head_dim
    return tuple(
        (head * (keys + values) + keys, (head + 1) * (keys + values))
        for head in range(config.num_attention_heads)
    )


def _attention_folds(block: BlockContext) -> tuple[Fold, ...]:
    """Each head has values of its own, so that kv_b's value rows feed o_proj one to one.

    kv_a_layernorm sees the latent alone: the rope part of kv_a's output goes past it.
    """
    compressed = block.config.q_lora_rank is not None
    norms = [*norm_fold(block.module, "input_layernorm", (Q_A if compressed else Q, KV_A))]
    if compressed:
        norms += norm_fold(block.module, "self_attn.q_a_layernorm", (Q_B,))
    norms += norm_fold(block.module, "self_attn.kv_a_layernorm", (KV_B,))
    return (*norms, linear_fold(KV_B, _value_rows(block.config), OUT))


def _folds(block: BlockContext) -> tuple[Fold, ...]:
    """Attention, and up→down of the MLP, or of the shared and the routed experts.

    In a block with experts post_attention_layernorm feeds the router and all experts.
    """
    dense = not hasattr(block.module.get_submodule("mlp"), "shared_experts")
    gate, up, down = DENSE if dense else SHARED
    readers = (gate, up) if dense else (gate, up, moe.ROUTER, moe.FIRST)
    up_rows = ((0, out_features(block.module, up)),)
    return (
        *_attention_folds(block),
        *norm_fold(block.module, "post_attention_layernorm", readers),
        linear_fold(up, up_rows, down),
        *(() if dense else (moe.experts_fold(block.module),)),
    )


def _latent_cache(layer: int, attention: str, config: Any) -> KVLayer:
    """One vector per token, [latent | rotated key], which engines cast with one scale."""
    latent = config.kv_lora_rank
    return KVLayer(layer, attention, 1, latent + config.qk_rope_head_dim, latent)


DEEPSEEK = Family(
    name="deepseek",
    model_types=("deepseek_v2", "deepseek_v3"),
    attention="self_attn",
    linears=(KV_A, KV_B, OUT),
    variants=tuple((*q, *mlp) for q in ((Q,), (Q_A, Q_B)) for mlp in (DENSE, SHARED)),
    fused=(
        ("self_attn.qkv_a", (Q_A, KV_A)),
        ("mlp.gate_up", DENSE[:2]),
        ("mlp.shared_experts.gate_up", SHARED[:2]),
        moe.EXPERTS,
    ),
    folds=_folds,
    cache=_latent_cache,
)
