"""The linears of a checkpoint, from headers and config.json alone, and how each is stored.

Names are the files'. Which of them an engine fuses is read off their last component, as engines do
it; what transformers calls a module is known for the renamings named here, elsewhere taken to be
the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fp8scope.checkpoint.inventory import Inventory, TensorEntry
from fp8scope.core.modules import Kind, Module, Treatment

FUSED = {
    "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up",
}  # fmt: skip
ROUTERS = {"gate", "router", "shared_expert_gate"}
HEADS = {"lm_head", "embed_out"}
BLOCK = 128

_EXPERT = re.compile(r"(?P<experts>.+\.experts)\.(?P<number>\d+)\.(?P<part>[^.]+)$")
_STACK = re.compile(r"(?P<experts>.+\.experts)\.(?P<part>[^.]*proj[^.]*)$")
_EMBEDDINGS = re.compile(
    r"(^|\.)(embed(?!_out)\w*|wte|wpe|word_embeddings\w*|position_embedding\w*|pos_embed\w*"
    r"|token_embedding\w*|shared|relative_attention_bias)$"
)
_STACKED = {"w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}
_STACKED |= {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}
_RENAMED = ((".block_sparse_moe.", ".mlp."),)  # Mixtral since transformers 5
_PLAIN = {"BF16", "F16", "F32", "F64"}
_FLOAT8 = {"F8_E4M3"}


def linears(inventory: Inventory, config: Mapping[str, Any]) -> tuple[Module, ...]:
    """Every linear, layers in the order of their numbers; `wanted` is how it is stored.

    `config` is config.json; an output layer that shares the embedding's weight is listed last.
    """
    tensors = {tensor.name: tensor for tensor in inventory.tensors}
    found = [module for tensor in inventory.tensors if (module := _module(tensor, tensors))]
    found.sort(key=lambda module: _natural(module.name))
    if not any(module.kind == "lm_head" for module in found) and _is_tied(config):
        found.append(_tied_head(tensors))
    return tuple(found)


def _module(tensor: TensorEntry, tensors: Mapping[str, TensorEntry]) -> Module | None:
    stack = _STACK.match(tensor.name)
    if stack and len(tensor.shape) == 3:
        name, (_, rows, columns) = tensor.name, tensor.shape
        return Module(name, _runtime(name), stack["experts"], "expert", rows, columns, "bf16")
    name, _, last = tensor.name.rpartition(".")
    if last not in {"weight", "weight_packed", "qweight"} or len(tensor.shape) != 2:
        return None
    if _EMBEDDINGS.search(name):
        return None
    kind, group = _kind_and_group(name)
    rows, columns = tensor.shape
    stored = stored_as(tensor, tensors)
    return Module(name, _runtime(name), group, kind, rows, columns, stored)


def stored_as(tensor: TensorEntry, tensors: Mapping[str, TensorEntry]) -> Treatment:
    """What the dtype of a linear's weight and the shapes of the scales beside it say.

    tensor: W [out, in]. Scales: `weight_scale` (or `weight_scale_inv`, DeepSeek's) and
    `input_scale` (or `activation_scale`).
    """
    if tensor.dtype in _PLAIN:
        return "bf16"
    if tensor.dtype not in _FLOAT8:
        return "other"
    name = tensor.name.rpartition(".")[0]
    scales = [tensors.get(f"{name}.{word}") for word in ("weight_scale", "weight_scale_inv")]
    shape = next((scale.shape for scale in scales if scale is not None), None)
    static = any(f"{name}.{word}" in tensors for word in ("input_scale", "activation_scale"))
    rows, columns = tensor.shape
    if shape in {(), (1,), (1, 1)}:
        return "fp8_tensor" if static else "fp8_tensor_dynamic"
    if shape in {(rows,), (rows, 1)}:
        return "fp8_token"
    down, across = -(-rows // BLOCK), -(-columns // BLOCK)
    if shape in {(down, across), (down, 1, across, 1)}:  # four axes in ModelOpt's own export
        return "fp8_block"
    return "other"


def _kind_and_group(name: str) -> tuple[Kind, str]:
    if expert := _EXPERT.match(name):
        return "expert", expert["experts"]
    parent, _, last = name.rpartition(".")
    if last in ROUTERS:
        return "router", name
    if last in HEADS:
        return "lm_head", name
    return "linear", f"{parent}.{FUSED[last]}" if last in FUSED else name


def _runtime(name: str) -> str:
    for stored, runs in _RENAMED:
        name = name.replace(stored, runs)
    expert = _EXPERT.match(name)
    if expert and expert["part"] in _STACKED:
        return f"{expert['experts']}.{_STACKED[expert['part']]}"
    return name


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers by their value, and after them what has none: lm_head after the layers."""
    parts = ((int(part), "") if part.isdigit() else (-1, part) for part in name.split("."))
    numbered = any(part.isdigit() for part in name.split("."))
    return [(not numbered, 0, ""), *((0, number, word) for number, word in parts)]


def _is_tied(config: Mapping[str, Any]) -> bool:
    text = config.get("text_config")
    nested = text if isinstance(text, Mapping) else {}
    return bool(config.get("tie_word_embeddings", nested.get("tie_word_embeddings", False)))


def _tied_head(tensors: Mapping[str, TensorEntry]) -> Module:
    embeddings: Iterator[TensorEntry] = (
        tensor
        for name, tensor in tensors.items()
        if name.endswith(("embed_tokens.weight", "wte.weight")) and len(tensor.shape) == 2
    )
    tensor = next(embeddings, None)
    rows, columns = tensor.shape if tensor is not None else (0, 0)
    return Module("lm_head", "lm_head", "lm_head", "lm_head", rows, columns, "bf16")
