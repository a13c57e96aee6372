"""What the reported checkpoints hold, small: linears by their names in the files, as stored."""

from __future__ import annotations

from collections.abc import Sequence

from fp8scope.core.modules import Treatment

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
QKV = ATTENTION[:3]
VISION = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")

Stored = dict[str, Treatment]


def linears(*blocks: Sequence[str], at: str = "model.layers") -> list[str]:
    """Names of the parts of each block, and lm_head."""
    return [f"{at}.{n}.{part}" for n, parts in enumerate(blocks) for part in parts] + ["lm_head"]


def stored(names: Sequence[str], treatment: Treatment, *bf16: str) -> Stored:
    """All in `treatment` but for lm_head, routers and what has one of `bf16` in its name."""
    plain = (".gate", "lm_head")
    return {
        name: "bf16" if name.endswith(plain) or any(each in name for each in bf16) else treatment
        for name in names
    }


def llama(treatment: Treatment, *bf16: str, blocks: int = 2, at: str = "model.layers") -> Stored:
    return stored(linears(*[ATTENTION + MLP] * blocks, at=at), treatment, *bf16)


def vision(treatment: Treatment, *bf16: str, tower: str = "visual") -> Stored:
    """A text model behind `model.language_model`, and a tower in BF16."""
    text = llama(treatment, *bf16, at="model.language_model.layers")
    blocks = (f"model.{tower}.blocks.{n}.{part}" for n in range(2) for part in VISION)
    return {**text, **dict.fromkeys(blocks, "bf16")}


def experts(owner: str, *shards: str) -> tuple[str, ...]:
    each = (f"{owner}.experts.{n}.{shard}" for n in range(3) for shard in shards)
    return (f"{owner}.gate", *each)


def qwen3_moe(treatment: Treatment, *bf16: str) -> Stored:
    moe = experts("mlp", "gate_proj", "up_proj", "down_proj")
    return stored(linears(*[ATTENTION + moe] * 2), treatment, *bf16)


def mixtral(treatment: Treatment, *bf16: str) -> Stored:
    moe = experts("block_sparse_moe", "w1", "w2", "w3")
    return stored(linears(*[ATTENTION + moe] * 2), treatment, *bf16)


def phi3(treatment: Treatment, *bf16: str) -> Stored:
    parts = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    return stored(linears(parts, parts), treatment, *bf16)


def step() -> Stored:
    """Two blocks in FP8, and in BF16 one that predicts a token more, with a head of its own."""
    more = (*ATTENTION, *MLP, "eh_proj", "shared_head.head")
    return stored(linears(ATTENTION + MLP, ATTENTION + MLP, more), "fp8_tensor", "layers.2.")


def delta_net(*parts: str, at: str = "model.layers") -> Stored:
    """Linear attention with FP8 per block, but for what its gates come from."""
    parts = tuple(f"linear_attn.{part}" for part in (*parts, "out_proj"))
    return stored(linears(parts, parts, at=at), "fp8_block", "in_proj_ba", "in_proj_a", "in_proj_b")
