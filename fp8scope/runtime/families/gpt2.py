"""GPT-2: Conv1D linears (weights kept as [in, out]), fused rows [q | k | v], GELU MLP.

Rows are those of the [out, in] matrix, whatever the storage. Blocks with cross-attention
are not described here: such a model counts as of unknown architecture.
"""

from __future__ import annotations

from typing import Any

from fp8scope.core.structure import Fold
from fp8scope.runtime.families.family import BlockContext, Family, norm_fold, value_fold


def _folds(block: BlockContext) -> tuple[Fold, ...]:
    hidden = block.heads.query * block.heads.dim
    return (
        *norm_fold(block.module, "ln_1", ("attn.c_attn",)),
        *norm_fold(block.module, "ln_2", ("mlp.c_fc",)),
        value_fold("attn.c_attn", ((2 * hidden, 3 * hidden),), "attn.c_proj", block.heads),
    )


def _supports(config: Any) -> bool:
    return not getattr(config, "add_cross_attention", False)


GPT2 = Family(
    name="gpt2",
    model_types=("gpt2",),
    attention="attn",
    linears=("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    fused=(),
    folds=_folds,
    supports=_supports,
)
