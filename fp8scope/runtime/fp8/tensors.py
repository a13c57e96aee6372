"""The tensors of an FP8 checkpoint, each in its part: codes, their scales, KV scales, the rest."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import Tensor

from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.inventory import Inventory
from fp8scope.checkpoint.linears import stored_as
from fp8scope.core.modules import WORDS, Treatment
from fp8scope.errors import BadModel
from fp8scope.runtime.fp8.metadata import Fp8Metadata

WEIGHT_SCALES = ("weight_scale", "weight_scale_inv")
INPUT_SCALES = ("input_scale", "activation_scale")
REBUILD = "build the checkpoint again"
_KV = re.compile(r"(?P<attention>.+?)(\.(k|v|qkv)_proj)?\.(?P<role>[kv])_scale$")
_PLAIN = {"BF16", "F16", "F32", "F64", "I64", "I32", "BOOL"}


@dataclass(frozen=True)
class Fp8Weight:
    """One weight in FP8, by the names of its tensors."""

    name: str
    shape: tuple[int, ...]
    treatment: Treatment
    scale: str
    input_scale: str | None


@dataclass(frozen=True)
class Parts:
    """Every tensor of the checkpoint in one of these.

    weights: by the name of the weight's tensor. kv: attention → role (`k`, `v`) → tensor.
    """

    weights: Mapping[str, Fp8Weight]
    kv: Mapping[str, Mapping[str, str]]
    rest: tuple[TensorEntry, ...]


def sort_out(inventory: Inventory, metadata: Fp8Metadata) -> Parts:
    """From headers alone. Raises BadModel, with the tensor's name, for a weight in another format,
    one without the scales that the metadata asks for, and a scale without its weight.
    """
    tensors = {tensor.name: tensor for tensor in inventory.tensors}
    weights = {
        name: _weight(tensor, tensors, metadata)
        for name, tensor in tensors.items()
        if tensor.dtype not in _PLAIN
    }
    used = set(weights) | {weight.scale for weight in weights.values()}
    used |= {weight.input_scale for weight in weights.values() if weight.input_scale}
    caches: defaultdict[str, dict[str, str]] = defaultdict(dict)
    rest = []
    for name, tensor in tensors.items():
        if found := _KV.match(name):
            caches[found["attention"]][found["role"]] = name
        elif name.rpartition(".")[2] in (*WEIGHT_SCALES, *INPUT_SCALES) and name not in used:
            raise BadModel(f"{name} is a scale of no FP8 weight", REBUILD)
        elif name not in used:
            rest.append(tensor)
    return Parts(weights, dict(caches), tuple(rest))


def _weight(
    tensor: TensorEntry, tensors: Mapping[str, TensorEntry], metadata: Fp8Metadata
) -> Fp8Weight:
    module, _, last = tensor.name.rpartition(".")
    shape = list(tensor.shape)
    if tensor.dtype != "F8_E4M3" or last != "weight" or len(shape) != 2:
        what = f"{tensor.name} is {tensor.dtype} {shape}, and only linears in E4M3 are run here"
        raise BadModel(what, "give an FP8 checkpoint that holds each linear by itself")
    scale = _first(module, WEIGHT_SCALES, tensors)
    if scale is None:
        raise BadModel(f"{tensor.name} is FP8 and has no weight_scale", REBUILD)
    stored = _stored(tensor, tensors, tensors[scale], metadata)
    if stored == "other":
        what = f"{scale} is {list(tensors[scale].shape)}, which fits no scheme of a weight {shape}"
        raise BadModel(what, REBUILD)
    inputs = _first(module, INPUT_SCALES, tensors)
    if stored not in metadata.treatments:
        expected = " or ".join(sorted(WORDS[word] for word in metadata.treatments))
        what = f"{tensor.name} is stored as {WORDS[stored]}, the metadata says {expected}"
        if stored == "fp8_tensor_dynamic" and "fp8_tensor" in metadata.treatments:
            what += f", and {module}.input_scale is missing"
        raise BadModel(what, REBUILD)
    if inputs is not None and stored != "fp8_tensor":
        raise BadModel(f"{inputs} is a static scale beside a weight {WORDS[stored]}", REBUILD)
    return Fp8Weight(tensor.name, tensor.shape, stored, scale, inputs)


def _stored(
    tensor: TensorEntry,
    tensors: Mapping[str, TensorEntry],
    scale: TensorEntry,
    metadata: Fp8Metadata,
) -> Treatment:
    stored = stored_as(tensor, tensors)
    # The one block of a small weight looks like a scale of the tensor.
    if stored == "fp8_tensor_dynamic" and scale.shape == (1, 1):
        return "fp8_block" if "fp8_block" in metadata.treatments else stored
    return stored


def _first(module: str, words: tuple[str, ...], tensors: Mapping[str, TensorEntry]) -> str | None:
    return next((name for word in words if (name := f"{module}.{word}") in tensors), None)


class TensorReader:
    """Reads tensors by name, with the files open from `with` to its end."""

    def __init__(self, inventory: Inventory) -> None:
        self._folder = inventory.folder
        self._file = {tensor.name: tensor.file for tensor in inventory.tensors}
        self._stack = ExitStack()
        self._open: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.clear()
        self._stack.close()

    def read(self, name: str) -> Tensor:
        """The tensor as it lies in the file."""
        file = self._file[name]
        if file not in self._open:
            opened: Any = safe_open(self._folder / file, framework="pt")
            self._open[file] = self._stack.enter_context(opened)
        tensor: Tensor = self._open[file].get_tensor(name)
        return tensor

    def codes(self, weight: Fp8Weight) -> Tensor:
        """[out, in] float8_e4m3fn. Raises BadModel for NaN among them."""
        codes = self.read(weight.name)
        if broken := int((codes.view(torch.uint8) & 0x7F).eq(0x7F).sum()):
            raise BadModel(f"{weight.name} holds {broken} NaN", REBUILD)
        return codes

    def weight_scale(self, weight: Fp8Weight) -> Tensor:
        """Float32: a scalar, [out], or [blocks, blocks]. Raises BadModel for what is no scale."""
        scale = self._scale(weight.scale, zero=True)
        if weight.treatment == "fp8_block":
            return scale.reshape(scale.shape[0], -1)
        return scale.reshape(-1) if weight.treatment == "fp8_token" else scale.reshape(())

    def scalar(self, name: str) -> Tensor:
        """A float32 scalar scale, above 0. Raises BadModel for anything else."""
        scale = self._scale(name, zero=False)
        if scale.numel() != 1:
            raise BadModel(f"{name} is {list(scale.shape)}, not a scalar", REBUILD)
        return scale.reshape(())

    def _scale(self, name: str, *, zero: bool) -> Tensor:
        scale = self.read(name).float()
        fine = scale.isfinite() & ((scale >= 0) if zero else (scale > 0))
        if not bool(fine.all()):
            worst = float(scale[~fine].flatten()[0])
            raise BadModel(f"{name} holds {worst:g}, which is no scale", REBUILD)
        return scale
