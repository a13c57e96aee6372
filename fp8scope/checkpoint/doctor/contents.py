"""A checkpoint as the looks see it: tensors, linears with their scales, metadata, values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fp8scope.checkpoint.declaration import BF16, Declaration, Scheme
from fp8scope.checkpoint.doctor.counting import ScaleValues
from fp8scope.checkpoint.doctor.scale_names import CacheScale, cache_scales
from fp8scope.checkpoint.doctor.stored import BYTES, FLOATS8, Stored, shapes_of
from fp8scope.checkpoint.doctor.values import Values
from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.linears import BLOCK, Granularity
from fp8scope.checkpoint.listing import Listing

LAYER = re.compile(r"(?P<stack>(?:.*?\.)?(?:layers|h|blocks?))\.(?P<number>\d+)\.")
# towers, and what predicts more tokens
ASIDE = re.compile(
    r"(^|[._])(vision|visual|audio|image|vit|siglip|encoder)|(^|\.)(mtp|draft|nextn|eagle)",
    re.IGNORECASE,
)
MANY = 100_000  # layers or experts
_KEYS = {"k_proj", "qkv_proj", "query_key_value", "Wqkv", "kv_a_proj_with_mqa", "c_attn"}


@dataclass(frozen=True)
class Contents:
    """All that was read. `linears` as `stored_linears` gives them. `config` is empty where
    config.json could not be read; `unread`: files of metadata that are there or should be, and
    could not be; `changed`: files that did while they were read.
    """

    folder: Path
    listing: Listing
    linears: tuple[Stored, ...]
    config: Mapping[str, Any]
    declarations: tuple[Declaration, ...]
    unread: frozenset[str]
    changed: frozenset[str]
    values: Values

    @cached_property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """By name."""
        return {tensor.name: tensor for tensor in self.listing.tensors}

    @cached_property
    def stored(self) -> tuple[Stored, ...]:
        """Every linear whose weight lies in the files, in module order, with what is `said`."""
        return tuple(map(self._settled, self.linears))

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

    def granularity(self, linear: Stored) -> Granularity | None:
        """What its weight scale is for. A single block looks like a tensor, so where the metadata
        says blocks of another size than these, it is one all the same.
        """
        is_block = self.declared(linear).granularity == "block" and linear.fits("block")
        return "block" if is_block else linear.granularity

    @cached_property
    def fp8(self) -> tuple[Stored, ...]:
        """The linears in E4M3."""
        return tuple(each for each in self.stored if each.is_fp8)

    @cached_property
    def judged(self) -> tuple[Stored, ...]:
        """Those of a scheme that is read here, or of none: MXFP8's scales are others."""
        if self.declarations and self.declaration is None:
            return ()
        return tuple(each for each in self.fp8 if self.declared(each).weights != "other")

    @cached_property
    def misread(self) -> tuple[Stored, ...]:
        """Linears that should be E4M3 and are stored as bytes or another FP8."""
        return tuple(
            each
            for each in self.stored
            if (each.weight.dtype in FLOATS8 and not each.is_fp8)
            or (
                each.weight.dtype in BYTES
                and each.scale is not None
                and self.declared(each).granularity is not None
            )
        )

    @cached_property
    def misshapen(self) -> tuple[Stored, ...]:
        """FP8 linears whose weight scale is there, in a shape that no loader takes."""
        return tuple(each for each in self.judged if each.scale is not None and self._is_odd(each))

    def _is_odd(self, linear: Stored) -> bool:
        if linear.granularity is None or linear.scale is None:
            return True
        room = self.room(linear)
        return bool(room) and linear.scale.shape not in room

    def room(self, linear: Stored) -> tuple[tuple[int, ...], ...]:
        """The shapes that loaders take for its weight scale; none where the metadata does not say
        what the scale is for, or says something else.
        """
        if linear.said is None or self.declaration is None or linear.is_stacked:
            return ()
        block = self.declared(linear).block
        return shapes_of(linear.said, self.declaration.form, linear.weight.shape, block)

    @cached_property
    def unsound(self) -> frozenset[str]:
        """Linears whose own tensors are wrong, so that what they are to others says nothing."""
        bare = (each for each in self.fp8 if each.is_bare)
        halves = (each for each in self.stored if each.is_plain and each.scale is not None)
        odd = (*self.misread, *self.misshapen, *bare, *halves)
        return frozenset(each.name for each in odd)

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
            if last in _KEYS and not ASIDE.search(parent) and not self.is_beyond(parent)
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

    @cached_property
    def architecture(self) -> str | None:
        """The first class that config.json names."""
        listed = self.config.get("architectures")
        first = listed[0] if isinstance(listed, list) and listed else None
        return first if isinstance(first, str) else None

    @cached_property
    def layers(self) -> int | None:
        """How many config.json says there are, of a model that is a decoder alone."""
        is_pair = self.text("is_encoder_decoder") or self.text("decoder_layers") is not None
        return None if is_pair else self.count("num_hidden_layers")

    def is_beyond(self, name: str) -> bool:
        """Whether it is of a layer behind those of the model, which predicts more tokens."""
        layer = LAYER.match(f"{name}.")
        return bool(layer and self.layers is not None and int(layer["number"]) >= self.layers)

    def count(self, key: str) -> int | None:
        """An entry of config.json that counts something; None for all else."""
        value = self.text(key)
        is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value < MANY
        return value if is_count else None

    def text(self, key: str) -> Any:
        """An entry of config.json, or of its text_config."""
        nested = self.config.get("text_config")
        return self.config.get(key, nested.get(key) if isinstance(nested, Mapping) else None)
