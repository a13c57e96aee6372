"""Gemma 2 and Gemma 3 (text): Llama's linears between four norms that scale by 1 + w.

The two norms before attention and MLP feed linears. `post_attention_layernorm` and
`post_feedforward_layernorm` add into the residual stream, so they cannot be folded.
"""

from __future__ import annotations

from fp8scope.core.structure import Fold
from fp8scope.runtime.families.family import BlockContext, Family, norm_fold
from fp8scope.runtime.families.llama import FUSED, GATE_UP, LINEARS, QKV, inner_folds


def _folds(block: BlockContext) -> tuple[Fold, ...]:
    return (
        *norm_fold(block.module, "input_layernorm", QKV, "norm_plus_one"),
        *norm_fold(block.module, "pre_feedforward_layernorm", GATE_UP, "norm_plus_one"),
        *inner_folds(block),
    )


GEMMA = Family(
    name="gemma",
    model_types=("gemma2", "gemma3_text"),
    attention="self_attn",
    linears=LINEARS,
    fused=FUSED,
    folds=_folds,
)
