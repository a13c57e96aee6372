"""OPT: separate q, k, v with biases, LayerNorm, and a ReLU MLP.

ReLU is positively homogeneous, so fc1 folds into fc2 (only for ReLU). With
`do_layer_norm_before=False` (OPT-350m) the norms sit after the residual addition and feed
the residual stream as well as the next linears: they cannot be folded.
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


def _folds(block: BlockContext) -> tuple[Fold, ...]:
    folds: list[Fold] = []
    if block.config.do_layer_norm_before:
        folds += norm_fold(block.module, "self_attn_layer_norm", QKV)
        folds += norm_fold(block.module, "final_layer_norm", ("fc1",))
    v_rows = ((0, out_features(block.module, "self_attn.v_proj")),)
    folds.append(value_fold("self_attn.v_proj", v_rows, "self_attn.out_proj", block.heads))
    if block.config.activation_function == "relu":
        folds.append(linear_fold("fc1", ((0, out_features(block.module, "fc1")),), "fc2"))
    return tuple(folds)


OPT = Family(
    name="opt",
    model_types=("opt",),
    attention="self_attn",
    linears=(*QKV, "self_attn.out_proj", "fc1", "fc2"),
    fused=(("self_attn.qkv", QKV),),
    folds=_folds,
)
