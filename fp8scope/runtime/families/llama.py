"""Llama, Mistral, Qwen2 and Qwen3: pre-norm blocks with a gated MLP and identical names.

Qwen3's q_norm and k_norm sit after the projections: they touch neither what the input norm
feeds nor the values.
"""

from __future__ import annotations

from fp8scope.core.structure import Fold
from fp8scope.runtime.families.family import (
    BlockContext,
    Family,
    linear_fold,
    norm_fold,
    out_features,
    value_fold,
)

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
LINEARS = (*QKV, "self_attn.o_proj", *GATE_UP, "mlp.down_proj")
FUSED = (("self_attn.qkv", QKV), ("mlp.gate_up", GATE_UP))


def inner_folds(block: BlockContext) -> tuple[Fold, ...]:
    """v→o and up→down: act(gate) * up is linear in up, whatever the activation."""
    v_rows = ((0, out_features(block.module, "self_attn.v_proj")),)
    up_rows = ((0, out_features(block.module, "mlp.up_proj")),)
    return (
        value_fold("self_attn.v_proj", v_rows, "self_attn.o_proj", block.heads),
        linear_fold("mlp.up_proj", up_rows, "mlp.down_proj"),
    )


def _folds(block: BlockContext) -> tuple[Fold, ...]:
    return (
        *norm_fold(block.module, "input_layernorm", QKV),
        *norm_fold(block.module, "post_attention_layernorm", GATE_UP),
        *inner_folds(block),
    )


LLAMA = Family(
    name="llama",
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    attention="self_attn",
    linears=LINEARS,
    fused=FUSED,
    folds=_folds,
)
