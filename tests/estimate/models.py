"""Models of real shapes as folders: config.json, and safetensors whose data is a hole in the file.

The shapes are those of the published config.json of each; the files hold no weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from fp8scope.checkpoint.header import BITS

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape of each tensor."""

LLAMA_70B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
LLAMA_8B = LLAMA_70B | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
LLAMA2_70B = LLAMA_70B | {"vocab_size": 32000}
MIXTRAL = LLAMA_8B | {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": 32000,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


def write(folder: Path, config: Mapping[str, Any], tensors: Shapes | None = None) -> Path:
    """The folder of a model with this config; its tensors are a Llama's unless given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {}
    at = 0
    for name, (dtype, shape) in (tensors or dict(llama(config))).items():
        size = BITS[dtype] * prod(shape) // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return folder


def llama(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """The tensors of a Llama, or of a Mixtral where the config has experts."""
    hidden, wide, vocabulary = (
        config[key] for key in ("hidden_size", "intermediate_size", "vocab_size")
    )
    width = config.get("head_dim") or hidden // config["num_attention_heads"]
    query, kv = (config[f"num_{kind}_heads"] * width for kind in ("attention", "key_value"))
    yield "model.embed_tokens.weight", ("BF16", (vocabulary, hidden))
    for i in range(config["num_hidden_layers"]):
        block = f"model.layers.{i}"
        for name, rows in (("q", query), ("k", kv), ("v", kv)):
            yield f"{block}.self_attn.{name}_proj.weight", ("BF16", (rows, hidden))
        yield f"{block}.self_attn.o_proj.weight", ("BF16", (hidden, query))
        yield from _mlp(block, config.get("num_local_experts", 0), wide, hidden)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{block}.{norm}.weight", ("BF16", (hidden,))
    yield "model.norm.weight", ("BF16", (hidden,))
    if not config.get("tie_word_embeddings"):
        yield "lm_head.weight", ("BF16", (vocabulary, hidden))


def _mlp(
    block: str, experts: int, wide: int, hidden: int
) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    if not experts:
        for name in ("gate", "up"):
            yield f"{block}.mlp.{name}_proj.weight", ("BF16", (wide, hidden))
        yield f"{block}.mlp.down_proj.weight", ("BF16", (hidden, wide))
        return
    yield f"{block}.block_sparse_moe.gate.weight", ("BF16", (experts, hidden))
    for i in range(experts):
        for name, shape in (("w1", (wide, hidden)), ("w2", (hidden, wide)), ("w3", (wide, hidden))):
            yield f"{block}.block_sparse_moe.experts.{i}.{name}.weight", ("BF16", shape)


def in_fp8(tensors: Shapes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The same as a checkpoint has them: linears of the blocks in FP8, with a static scale each."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (dtype, shape) in tensors.items():
        is_linear = name.endswith(("_proj.weight", "w1.weight", "w2.weight", "w3.weight"))
        found[name] = ("F8_E4M3", shape) if is_linear else (dtype, shape)
        if is_linear:
            base = name.removesuffix(".weight")
            found |= {f"{base}.{scale}": ("F32", ()) for scale in ("weight_scale", "input_scale")}
    return found
