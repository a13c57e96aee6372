"""What vLLM will run each layer in, under ModelOpt's metadata or a list of `fp8`."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from fp8scope.checkpoint import schemes
from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import Layer, Outcome, Pattern, Reading
from fp8scope.export.matchers import vllm_match as match
from fp8scope.export.matchers.vllm_names import names

BF16 = Outcome("bf16")
BLOCK = 128
_VISION = ("vision_tower", "vision_model", "vit_large_projector")
# `quant_algo` of a linear that is not FP8, and of a block format that is neither
_OTHER = {"NVFP4", "W4A16_NVFP4", "MXFP8"}
_CODECS = {"IQ2_XS", "IQ2_XXS", "Q8_0"}
# classes that take entries of `fp8` per block for dotted ends of names
_BY_END = ("BailingMoeV3ForCausalLM", "BailingMoeV3VLForConditionalGeneration")
BLOCK_FP8 = ("FP8_PB_WO", "FP8_BLOCK_SCALES")


class VLLMReading(Reading):
    """What all of vLLM's ways have in common."""

    def __init__(self, model: Model, patterns: Iterable[Pattern]) -> None:
        self.names = names(model)
        self.layers = tuple(self._asked(layer) for layer in self.names.layers)
        self.shards = {shard for layer in self.layers for shard in layer.shards}
        self.patterns = tuple(patterns)

    def outcome(self, layer: Layer) -> Outcome:
        """Errors are those that vLLM raises while it builds the layer."""
        if layer.name in self.names.plain:
            return BF16
        try:
            return self._outcome(layer)
        except match.Conflict as conflict:
            return Outcome(None, _refused(layer, conflict))
        except re.error as error:
            return Outcome(None, f"an entry is no regular expression: {error}")

    def hits(self, pattern: Pattern, name: str) -> bool:
        """A fused layer's name is hit where all its shards are."""
        try:
            return self._hits(pattern, name)
        except (match.Conflict, re.error):
            return False

    def _asked(self, layer: Layer) -> Layer:
        """The layer with the shards that the matcher asks for, which the class declares."""
        if layer.kind == "experts":
            return layer
        shards = match.shards(layer.name, self.names.fused)
        return replace(layer, shards=() if shards == (layer.name,) else shards)

    @abstractmethod
    def _outcome(self, layer: Layer) -> Outcome: ...

    @abstractmethod
    def _hits(self, pattern: Pattern, name: str) -> bool: ...


class ModelOptReading(VLLMReading):
    """`modelopt`: every listed layer stays, all others get the one algorithm."""

    def __init__(self, model: Model, patterns: Iterable[Pattern], algorithm: str) -> None:
        super().__init__(model, patterns)
        self.algorithm = algorithm
        self.listed = self._entries([p.text for p in self.patterns if p.says == "bf16"])

    def _entries(self, texts: list[str]) -> list[str]:
        return self.names.listed(match.without_stars(texts)) if self.names.renames else texts

    def _outcome(self, layer: Layer) -> Outcome:
        if match.is_excluded(layer.name, self.listed, self.names.fused):
            return _kept(layer, self.listed)
        if any(part in layer.name for part in _VISION):
            return Outcome("bf16", note="vLLM keeps what is called a vision tower in BF16")
        if self.algorithm in _OTHER:
            return Outcome("other")
        if layer.kind != "experts":
            return _linear(layer, self.algorithm)
        silent = "" if self.algorithm == "FP8" else f"vLLM reads no {self.algorithm} of experts"
        return Outcome("fp8_tensor", note=silent)

    def _hits(self, pattern: Pattern, name: str) -> bool:
        entries = self._entries([pattern.text])
        if name in self.shards:  # parts and stars are looked for in names of whole layers only
            return name in entries
        return match.is_excluded(name, entries, self.names.fused)


class MixedReading(ModelOptReading):
    """MIXED_PRECISION: what is in `quantized_layers` gets its algorithm, all else stays."""

    def __init__(
        self,
        model: Model,
        patterns: Iterable[Pattern],
        quantized: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """`quantized` as in the metadata, each with its `quant_algo`."""
        self.raw = quantized
        super().__init__(model, patterns, "MIXED_PRECISION")
        self.listed = self._entries(
            [p.text for p in self.patterns if p.where != "quantized_layers"]
        )
        self.quantized = self._renamed(quantized)
        sizes = (q.get("group_size", BLOCK) for q in quantized.values() if _is_block(q))
        self.block = int(next(sizes, BLOCK))

    def _renamed(self, quantized: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        renamed = ((self.names.mapper.name(name), said) for name, said in quantized.items())
        return {name: said for name, said in renamed if name is not None}

    def _outcome(self, layer: Layer) -> Outcome:
        if match.is_excluded(layer.name, self.listed, self.names.fused):
            return _kept(layer, self.listed)
        found = match.mixed_algorithm(layer.name, self.quantized, self.names.fused)
        if found is None:
            return BF16
        algorithm, entries = found
        note = self._note(layer, algorithm, entries)
        if algorithm in _OTHER | _CODECS:
            return Outcome("other", note=note)
        if layer.kind == "experts":
            return _experts(layer, algorithm, self.block, note)
        if algorithm not in schemes.ALGORITHMS:
            return Outcome("bf16", note=f"vLLM has no {algorithm} linear and loads it as BF16")
        return replace(_linear(layer, algorithm), note=note)

    def _note(self, layer: Layer, algorithm: str, entries: tuple[str, ...]) -> str:
        if layer.kind == "experts":
            under = {e: str(q["quant_algo"]).upper() for e, q in self.quantized.items()}
            if not entries[0].startswith(layer.name):
                return f"vLLM takes the algorithm of {entries[0]}, which is beside the experts"
            others = {a for e, a in under.items() if e.startswith(f"{layer.name}.")} - {algorithm}
            return f"vLLM takes the algorithm of {entries[0]} for all experts" if others else ""
        if layer.name in entries or not layer.shards or len(entries) >= len(layer.shards):
            return ""
        listed = ", ".join(entry.rsplit(".", 1)[-1] for entry in entries)
        return f"vLLM takes the algorithm of {listed} for the whole layer"

    def _hits(self, pattern: Pattern, name: str) -> bool:
        if pattern.where != "quantized_layers":
            return super()._hits(pattern, name)
        alone = self._renamed({pattern.text: self.raw[pattern.text]})
        return match.mixed_algorithm(name, alone, self.names.fused) is not None


class Fp8Reading(VLLMReading):
    """`fp8`: listed linears and experts stay, all others get the one treatment; heads stay."""

    def __init__(
        self, model: Model, patterns: Iterable[Pattern], treatment: Treatment, experts: Treatment
    ) -> None:
        super().__init__(model, patterns)
        self.treatments = (treatment, experts)
        by_end = model.architecture in _BY_END and treatment == "fp8_block"
        self.mode: match.Mode = "suffix" if by_end else "exact"
        self.listed = self.names.listed([pattern.text for pattern in self.patterns])

    def _outcome(self, layer: Layer) -> Outcome:
        if layer.kind == "lm_head":
            return BF16
        if match.is_skipped(layer.name, self.listed, self.names.fused, self.mode):
            return _kept(layer, self.listed)
        treatment = self.treatments[layer.kind == "experts"]
        error = block_error(layer) if treatment == "fp8_block" else ""
        return Outcome(None, error) if error else Outcome(treatment)

    def _hits(self, pattern: Pattern, name: str) -> bool:
        entries = self.names.listed([pattern.text])
        return match.is_skipped(name, entries, self.names.fused, self.mode)


def block_error(layer: Layer, block: int = BLOCK) -> str:
    """What vLLM raises where blocks do not fit a layer's parts; empty where they do."""
    if layer.kind == "experts":
        downs = (m for m in layer.modules if m.name.endswith((".w2", ".down_proj")))
        sizes = [module.in_features for module in downs]
    else:  # the last part of a merged weight may end inside a block
        sizes = [module.out_features for module in layer.modules[:-1]]
    wrong = next((size for size in sizes if size % block), None)
    return f"{wrong} rows of a part are not whole blocks of {block}" if wrong is not None else ""


def _kept(layer: Layer, listed: Iterable[str]) -> Outcome:
    """Layers that are listed stay; of experts it takes no more than one that is."""
    named = set(listed).intersection(layer.shards) if layer.kind == "experts" else set()
    in_part = named and len(named) < len(layer.shards)
    return Outcome("bf16", note=f"vLLM keeps all experts for {min(named)}") if in_part else BF16


def _linear(layer: Layer, algorithm: str) -> Outcome:
    columns = layer.modules[0].in_features
    if algorithm == "FP8_PB_WO" and columns % BLOCK:
        return Outcome(None, f"FP8_PB_WO needs whole blocks of {BLOCK} inputs, it has {columns}")
    return Outcome(schemes.algorithm(algorithm))


def _experts(layer: Layer, algorithm: str, block: int, note: str) -> Outcome:
    if algorithm == "FP8":
        return Outcome("fp8_tensor", note=note)
    if algorithm in BLOCK_FP8:
        error = block_error(layer, block)
        treatment: Treatment = "fp8_block" if block == BLOCK else "other"
        return Outcome(None, error) if error else Outcome(treatment, note=note)
    return Outcome("bf16", note=f"vLLM has no {algorithm} experts and loads them as BF16")


def _is_block(said: Mapping[str, Any]) -> bool:
    return str(said["quant_algo"]).upper() in BLOCK_FP8


def _refused(layer: Layer, conflict: match.Conflict) -> str:
    if not layer.shards:
        return str(conflict)
    parts = ", ".join(name.rsplit(".", 1)[-1] for name in layer.shards)
    return f"it is one layer of {parts}, and {conflict}"
