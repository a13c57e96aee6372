"""The KV scales of a checkpoint, by the number of the layer whose cache they scale."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fp8scope.core.structure import Structure
from fp8scope.errors import BadModel
from fp8scope.runtime.fp8.cache import KVScales
from fp8scope.runtime.fp8.skeleton import left_out
from fp8scope.runtime.fp8.tensors import REBUILD, Parts, TensorReader


def kv_scales(
    model: nn.Module, structure: Structure, parts: Parts, reader: TensorReader, *, expected: bool
) -> dict[int, KVScales]:
    """Scales by layer, of those layers that have them; with `expected` all must.

    Latent attention has one scale for its one vector, `k_scale`; a `v_scale` beside it is not
    read, as in engines. Raises BadModel for a layer that lacks a scale, and for a scale that is
    no layer's.
    """
    layers = _layers(model, structure)
    latent = {layer.attention: layer.latent_dim for layer in structure.kv_layers}
    found = {}
    for attention, names in parts.kv.items():
        module = _module(attention, layers)
        name = next(iter(names.values()))
        if module is None and left_out(model, name):
            continue
        if module is None:
            raise BadModel(f"{name} is the scale of no KV cache in the model", REBUILD)
        found[module] = _scales(attention, names, reader, latent.get(module, 0))
    lacking = next((name for name in layers if name not in found), None)
    if expected and lacking is not None:
        what = f"the metadata says that the KV cache is FP8, and {lacking} has no k_scale, v_scale"
        raise BadModel(what, f"{REBUILD}: engines take 1 for them")
    return {layers[module]: scales for module, scales in found.items()}


def _scales(
    attention: str, names: Mapping[str, str], reader: TensorReader, latent_dim: int
) -> KVScales:
    roles = ("k",) if latent_dim else ("k", "v")
    missing = next((role for role in roles if role not in names), None)
    if missing:
        raise BadModel(f"{attention} has no {missing}_scale beside the other", REBUILD)
    values = [float(reader.scalar(names[role])) for role in roles]
    return KVScales(values[0], values[-1], latent_dim)


def _layers(model: nn.Module, structure: Structure) -> dict[str, int]:
    """Number of the cache's layer by the name of the attention module."""
    if structure.kv_layers:
        return {layer.attention: layer.layer for layer in structure.kv_layers}
    return {
        name: int(module.layer_idx)
        for name, module in model.named_modules()
        if "attn" in name.rpartition(".")[2] and isinstance(getattr(module, "layer_idx", None), int)
    }


def _module(attention: str, layers: Mapping[str, int]) -> str | None:
    """The module that the files call `attention`: models may run under another prefix.

    The longest common end decides, from the number of the layer on.
    """
    parts = attention.split(".")
    number = max((i for i, part in enumerate(parts) if part.isdigit()), default=0)
    end = "." + ".".join(parts[max(0, number - 1) :])
    alike = [name for name in layers if f".{name}".endswith(end)]
    return alike[0] if len(alike) == 1 else None
