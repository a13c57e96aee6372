"""Phi-3: Llama's function with fused projections, rows [q | k | v] and [gate | up]."""

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

QKV = "self_attn.qkv_proj"
GATE_UP = "mlp.gate_up_proj"


def _folds(block: BlockContext) -> tuple[Fold, ...]:
    qkv_rows = out_features(block.module, QKV)
    gate_up_rows = out_features(block.module, GATE_UP)
    v_rows = ((qkv_rows - block.heads.kv * block.heads.dim, qkv_rows),)
    up_rows = ((gate_up_rows // 2, gate_up_rows),)
    return (
        *norm_fold(block.module, "input_layernorm", (QKV,)),
        *norm_fold(block.module, "post_attention_layernorm", (GATE_UP,)),
        value_fold(QKV, v_rows, "self_attn.o_proj", block.heads),
        linear_fold(GATE_UP, up_rows, "mlp.down_proj"),
    )


PHI3 = Family(
    name="phi3",
    model_types=("phi3",),
    attention="self_attn",
    linears=(QKV, "self_attn.o_proj", GATE_UP, "mlp.down_proj"),
    fused=(),
    folds=_folds,
)
