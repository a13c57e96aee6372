"""A checkpoint as the looks see it: tensors, linears with their scales, metadata, values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fp8scope.checkpoint.declared import BF16, Declaration, Scheme, declare
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.values import ScaleValues, Values
from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.inventory import Inventory, Listing
from fp8scope.checkpoint.linears import (
    BLOCK,
    FLOAT8,
    FUSED,
    PLAIN,
    Granularity,
    fits,
    linears,
    scale_names,
    scale_of,
)
from fp8scope.core.modules import Module

CONFIG, METADATA = "config.json", "hf_quant_config.json"
FLOATS8 = {FLOAT8, "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
_GRANULARITIES: tuple[Granularity, ...] = ("tensor", "channel", "block")
_CACHE_SCALE = re.compile(
    r"(?P<attention>.+?)(\.([kv]|qkv|c)_proj|\.query_key_value|\.attn|\.[kv]_cache)?"
    r"\.(?P<what>[kv]|kv)_scale$"
)
_OLD_CACHE_SCALE = re.compile(
    r"(?P<attention>.+)\.(?P<what>[kv])(_cache\.scale|_proj\.output_scale)$"
)
_VISION = re.compile(r"(^|[._])(vision|visual|audio|image|vit|siglip|encoder)", re.IGNORECASE)
_KEYS = {"k_proj", "qkv_proj", "query_key_value", "Wqkv", "kv_a_proj_with_mqa", "c_attn"}


@dataclass(frozen=True)
class Stored:
    """A linear with its weight and the scales beside it. `said`: the granularity that the metadata
    gives it, where the shapes fit: [1, 1] may be a tensor's scale or that of one block.
    """

    module: Module
    weight: TensorEntry
    scale: TensorEntry | None
    input_scale: TensorEntry | None
    said: Granularity | None = None

    @property
    def name(self) -> str:
        """In the files, without `.weight`."""
        return self.module.name

    @property
    def is_fp8(self) -> bool:
        """Whether the codes are E4M3 as engines read them."""
        return self.weight.dtype == FLOAT8

    @property
    def is_plain(self) -> bool:
        """Whether the weight is in BF16, F16 or longer."""
        return self.weight.dtype in PLAIN

    @property
    def granularity(self) -> Granularity | None:
        """What the weight's scale is for by its shape; None for none, or of another shape."""
        return self.said or next((each for each in _GRANULARITIES if self.fits(each)), None)

    def fits(self, granularity: Granularity, block: tuple[int, int] = (128, 128)) -> bool:
        """Whether the weight's scale may be one per this."""
        if self.scale is None:
            return False
        return fits(self.scale.shape, self.weight.shape, granularity, block)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that lists may mean it by: its own, transformers', that of the fused layer."""
        parent, _, last = self.name.rpartition(".")
        fused = (f"{parent}.{FUSED[last]}_proj",) if last in FUSED and parent else ()
        return tuple(dict.fromkeys((self.name, self.module.runtime, *fused)))


@dataclass(frozen=True)
class CacheScale:
    """One scale of a KV cache: of `k`, `v` or both."""

    name: str
    attention: str
    what: str


@dataclass(frozen=True)
class Contents:
    """All that was read. `config` is empty where config.json could not be."""

    folder: Path
    listing: Listing
    config: Mapping[str, Any]
    declarations: tuple[Declaration, ...]
    values: Values

    @cached_property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """By name."""
        return {tensor.name: tensor for tensor in self.listing.tensors}

    @cached_property
    def stored(self) -> tuple[Stored, ...]:
        """Every linear whose weight lies in the files, in module order."""
        return tuple(map(self._settled, stored_linears(self.listing, self.config)))

    def _settled(self, linear: Stored) -> Stored:
        scheme = self.declared(linear)
        said = scheme.granularity
        if not linear.is_fp8 or said is None or not linear.fits(said, scheme.block):
            return linear
        treatment = linear.module.wanted
        if said == "block":
            treatment = "fp8_block" if scheme.block == (BLOCK, BLOCK) else "other"
        module = replace(linear.module, wanted=treatment)
        return replace(linear, module=module, said=said)

    @cached_property
    def fp8(self) -> tuple[Stored, ...]:
        """The linears in E4M3."""
        return tuple(each for each in self.stored if each.is_fp8)

    @cached_property
    def cache_scales(self) -> tuple[CacheScale, ...]:
        """Every scale of a KV cache."""
        return tuple(cache_scales(self.tensors))

    @cached_property
    def attentions(self) -> tuple[str, ...]:
        """Attention modules whose keys are cached, by the linears that make them."""
        found = dict.fromkeys(
            parent
            for each in self.stored
            for parent, _, last in [each.name.rpartition(".")]
            if last in _KEYS and parent and not _VISION.search(parent)
        )
        return tuple(found)

    @cached_property
    def declaration(self) -> Declaration | None:
        """The metadata that tensors are held against: config.json's, else the other."""
        return next((each for each in self.declarations if each.is_read), None)

    def declared(self, linear: Stored) -> Scheme:
        """What the metadata says of it; BF16 where there is none."""
        if self.declaration is None:
            return BF16
        if linear.name not in self._declared:
            self._declared[linear.name] = self.declaration.of(linear.names)
        return self._declared[linear.name]

    @cached_property
    def _declared(self) -> dict[str, Scheme]:
        return {}

    def may_be_lost(self, names: Iterable[str]) -> bool:
        """Whether any of these tensors may lie in what could not be read."""
        return self.listing.is_blind or not self.listing.lost.isdisjoint(names)

    def scale(self, tensor: TensorEntry | None) -> ScaleValues | None:
        """The values of a scale; None where there is none, or it could not be read."""
        return self.values.scales.get(tensor.name) if tensor is not None else None

    def text(self, key: str) -> Any:
        """An entry of config.json, or of its text_config."""
        nested = self.config.get("text_config")
        return self.config.get(key, nested.get(key) if isinstance(nested, Mapping) else None)


def stored_linears(listing: Listing, config: Mapping[str, Any]) -> tuple[Stored, ...]:
    """The linears of a listing with their scales; an output layer that is tied has no weight."""
    tensors = {tensor.name: tensor for tensor in listing.tensors}
    found = []
    for module in linears(Inventory(listing.folder, listing.tensors), config):
        ends = ("", ".weight", ".weight_packed", ".qweight")
        names = (f"{module.name}{end}" for end in ends)
        weight = next((tensors[name] for name in names if name in tensors), None)
        if weight is not None:
            scale = scale_of(weight.name, "weight", tensors)
            found.append(Stored(module, weight, scale, scale_of(weight.name, "input", tensors)))
    return tuple(found)


def scale_tensors(listing: Listing, config: Mapping[str, Any]) -> frozenset[str]:
    """The names of all tensors that are scales."""
    stacks = {
        name
        for linear in stored_linears(listing, config)
        for role in ("weight", "input")
        for name in scale_names(linear.weight.name, role)
    }
    names = {tensor.name for tensor in listing.tensors}
    caches = {scale.name for scale in cache_scales(names)}
    ends = tuple(f".{word}" for word in SCALE_WORDS)
    return frozenset((stacks & names) | caches | {name for name in names if name.endswith(ends)})


SCALE_WORDS = (
    "weight_scale", "weight_scale_inv", "input_scale", "activation_scale", "output_scale",
    "q_scale", "prob_scale", "pre_quant_scale", "input_scale_ub",
)  # fmt: skip


def cache_scales(names: Iterable[str]) -> Iterator[CacheScale]:
    """Those of the names that are scales of a KV cache."""
    for name in names:
        if name.endswith(("_scale", "_cache.scale")):
            match = _OLD_CACHE_SCALE.match(name) or _CACHE_SCALE.match(name)
            if match is not None:
                yield CacheScale(name, match["attention"], match["what"])


def read_config(folder: Path, faults: list[Fault]) -> tuple[dict[str, Any], list[Declaration]]:
    """config.json, and the metadata of both files; what cannot be read becomes a fault."""
    config = _object(folder, CONFIG, faults)
    metadata = _object(folder, METADATA, faults) if (folder / METADATA).exists() else None
    text = (config or {}).get("text_config")
    places = [(config or {}), text if isinstance(text, dict) else {}]
    own = next(
        (place[key] for place in places for key in _QUANTIZATION if place.get(key)),
        None,
    )
    if own is not None and not isinstance(own, dict):
        what = f"the quantization_config of {CONFIG} is not a JSON object"
        faults.append(Fault("metadata-malformed", "error", what, "write it again", (CONFIG,)))
    declarations = [declare(own, CONFIG)] if isinstance(own, dict) else []
    if metadata is not None:
        declarations.append(declare(metadata, METADATA))
    return config or {}, declarations


_QUANTIZATION = ("quantization_config", "compression_config")


def _object(folder: Path, file: str, faults: list[Fault]) -> dict[str, Any] | None:
    code = "config" if file == CONFIG else "metadata"
    try:
        data = json.loads((folder / file).read_bytes())
    except FileNotFoundError:
        remedy = "copy the model's own, and put the quantization_config into it"
        faults.append(Fault(f"{code}-missing", "error", f"there is no {file}", remedy, (file,)))
        return None
    except OSError as error:
        what = f"{file} cannot be read ({error.strerror})"
        faults.append(Fault(f"{code}-unreadable", "error", what, "check the file", (file,)))
        return None
    except (ValueError, RecursionError):
        remedy = "fetch the file again, or mend it"
        what = f"{file} is not JSON"
        faults.append(Fault(f"{code}-unreadable", "error", what, remedy, (file,)))
        return None
    if not isinstance(data, dict):
        what = f"{file} is not a JSON object"
        remedy = "fetch the file again"
        faults.append(Fault(f"{code}-unreadable", "error", what, remedy, (file,)))
        return None
    return data
