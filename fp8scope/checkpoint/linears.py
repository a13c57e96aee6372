"""The linears of a checkpoint, from headers and config.json alone, and how each is stored.

Names are the files'. Which of them an engine fuses is read off their last component, as engines do
it; what transformers calls a module is known for the renamings named here, elsewhere taken to be
the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.inventory import Inventory
from fp8scope.core.modules import Kind, Module, Treatment

FUSED = {
    "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up",
}  # fmt: skip
ROUTERS = {"gate", "router", "shared_expert_gate"}
HEADS = {"lm_head", "embed_out"}
BLOCK = 128

_EXPERT = re.compile(r"(?P<experts>.+\.experts)\.(?P<number>\d+)\.(?P<part>[^.]+)$")
_STACK = re.compile(r"(?P<experts>.+\.experts)\.(?P<part>[^.]*proj)$")
_EMBEDDINGS = re.compile(
    r"(^|\.)(embed(?!_out)\w*|wte|wpe|word_embeddings\w*|position_embedding\w*|pos_embed\w*"
    r"|token_embedding\w*|shared|relative_attention_bias)$"
)
LETTERS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_STACKED = {"w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}
_STACKED |= {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}
_RENAMED = ((".block_sparse_moe.", ".mlp."),)  # Mixtral since transformers 5
PLAIN = {"BF16", "F16", "F32", "F64"}
FLOAT8 = "F8_E4M3"
Role = Literal["weight", "input"]
Granularity = Literal["tensor", "channel", "block"]
_SCALES: dict[Role, tuple[str, ...]] = {
    "weight": ("weight_scale", "weight_scale_inv"),
    "input": ("input_scale", "activation_scale"),
}
_STACK_SCALES: dict[Role, tuple[str, ...]] = {
    "weight": ("_weight_scale", "_weight_scale_inv", "_scale", "_scale_inv"),
    "input": ("_input_scale", "_activation_scale"),
}


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
    base, _, last = tensor.name.rpartition(".")
    is_weight = last in {"weight", "weight_packed", "qweight"}
    name = base if is_weight else tensor.name
    stacked = len(tensor.shape) == 3 and _STACK.match(name) is not None
    if not stacked and not (is_weight and len(tensor.shape) == 2):
        return None
    if _EMBEDDINGS.search(name):
        return None
    stored, (rows, columns) = stored_as(tensor, tensors), tensor.shape[-2:]
    if stacked:
        return Module(
            name, _runtime(name), name.rpartition(".")[0], "expert", rows, columns, stored
        )
    kind, group = _kind_and_group(name)
    return Module(name, _runtime(name), group, kind, rows, columns, stored)


def stored_as(tensor: TensorEntry, tensors: Mapping[str, TensorEntry]) -> Treatment:
    """What the dtype of a linear's weight and the shapes of the scales beside it say.

    tensor: W [out, in], of stacked experts [experts, out, in].
    """
    if tensor.dtype in PLAIN:
        return "bf16"
    if tensor.dtype != FLOAT8:
        return "other"
    scale = scale_of(tensor.name, "weight", tensors)
    if scale is None:
        return "other"
    if fits(scale.shape, tensor.shape, "tensor"):
        static = scale_of(tensor.name, "input", tensors) is not None
        return "fp8_tensor" if static else "fp8_tensor_dynamic"
    if fits(scale.shape, tensor.shape, "channel"):
        return "fp8_token"
    return "fp8_block" if fits(scale.shape, tensor.shape, "block") else "other"


def scale_names(weight: str, role: Role) -> tuple[str, ...]:
    """What the scales of the tensor `weight` or of its input may be called in the files."""
    base = weight.removesuffix(".weight")
    beside = tuple(f"{base}.{word}" for word in _SCALES[role])
    if base != weight:
        return beside
    return (*(f"{base}{end}" for end in _STACK_SCALES[role]), *beside)


def scale_of(weight: str, role: Role, tensors: Mapping[str, TensorEntry]) -> TensorEntry | None:
    """The scale of the tensor `weight`, or that of its input."""
    found = (tensors.get(name) for name in scale_names(weight, role))
    return next((scale for scale in found if scale is not None), None)


def fits(
    scale: tuple[int, ...],
    weight: tuple[int, ...],
    granularity: Granularity,
    block: tuple[int, int] = (BLOCK, BLOCK),
) -> bool:
    """Whether a scale of this shape can be that of a weight [out, in] or [experts, out, in].

    Per channel of stacked experts: of either side, for files may hold them transposed.
    """
    *stack, rows, columns = weight
    if granularity == "tensor":
        return scale in {(), (1,), (1, 1), (*stack,), (*stack, 1), (*stack, 1, 1)}
    if granularity == "channel":
        shapes = {(*stack, rows), (*stack, rows, 1)}
        return scale in (shapes | {(*stack, columns), (*stack, 1, columns)} if stack else shapes)
    down, across = -(-rows // block[0]), -(-columns // block[1])
    # four axes in ModelOpt's own export
    return scale in {(*stack, down, across), (*stack, down, 1, across, 1)}


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
