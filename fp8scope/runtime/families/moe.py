"""Mixtral and Qwen3-MoE: Llama's attention, and routed experts in place of the MLP.

Some of Qwen3-MoE's blocks may keep Llama's MLP. An engine runs the experts of a layer as one
grouped GEMM, so they share a precision; the router decides on small differences and stays BF16.
"""

from __future__ import annotations

from torch import nn

from fp8scope.core.structure import Fold
from fp8scope.runtime.families import llama
from fp8scope.runtime.families.family import (
    BlockContext,
    Family,
    linear_fold,
    norm_fold,
    out_features,
    value_fold,
)

ROUTER = "mlp.gate"
FIRST, LAST = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
EXPERTS = ("mlp.experts", (FIRST, LAST))


def _folds(block: BlockContext) -> tuple[Fold, ...]:
    if not hasattr(block.module.get_submodule("mlp"), "experts"):
        return llama.LLAMA.folds(block)
    v_rows = ((0, out_features(block.module, "self_attn.v_proj")),)
    return (
        *norm_fold(block.module, "input_layernorm", llama.QKV),
        *norm_fold(block.module, "post_attention_layernorm", (ROUTER, FIRST)),
        value_fold("self_attn.v_proj", v_rows, "self_attn.o_proj", block.heads),
        experts_fold(block.module),
    )


def experts_fold(block: nn.Module) -> Fold:
    """up→down of each routed expert; in gate_up_proj the rows of up follow those of gate."""
    width = block.get_parameter(LAST).shape[-1]
    return linear_fold(FIRST, ((width, 2 * width),), LAST)


LLAMA_MOE = Family(
    name="llama_moe",
    model_types=("mixtral", "qwen3_moe"),
    attention="self_attn",
    linears=(*llama.QKV, "self_attn.o_proj"),
    fused=(*llama.FUSED, EXPERTS),
    folds=_folds,
)
