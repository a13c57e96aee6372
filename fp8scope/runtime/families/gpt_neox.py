"""GPT-NeoX (Pythia): fused qkv interleaved per head, LayerNorm with bias, plain GELU MLP.

With the parallel residual and without it each of the two norms feeds one linear only:
`input_layernorm` the attention, `post_attention_layernorm` the MLP. GELU is neither linear
nor homogeneous, so nothing folds into `dense_4h_to_h`.
"""

from __future__ import annotations

from fp8scope.core.structure import Fold
from fp8scope.runtime.families.family import BlockContext, Family, Rows, norm_fold, value_fold

QKV = "attention.query_key_value"


def _value_rows(heads: int, dim: int) -> Rows:
    """Rows of the values in the fused weight: head h holds [q, k, v] of `dim` rows each."""
    return tuple(((3 * h + 2) * dim, (3 * h + 3) * dim) for h in range(heads))


def _folds(block: BlockContext) -> tuple[Fold, ...]:
    heads = block.heads
    return (
        *norm_fold(block.module, "input_layernorm", (QKV,)),
        *norm_fold(block.module, "post_attention_layernorm", ("mlp.dense_h_to_4h",)),
        value_fold(QKV, _value_rows(heads.kv, heads.dim), "attention.dense", heads),
    )


GPT_NEOX = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    attention="attention",
    linears=(QKV, "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    fused=(),
    folds=_folds,
)
