"""What TensorRT-LLM's PyTorch backend will run each layer in, under one of its lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fp8scope.core.modules import WORDS, Model, Treatment
from fp8scope.export.consumer import Layer, Outcome, Pattern, Reading
from fp8scope.export.matchers import trtllm_match as match
from fp8scope.export.matchers.fused_layers import fused_layers

# wrappers of vision-language models hold the decoder as a model of its own
_WRAPPED = {
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head": "lm_head",
}
BF16 = Outcome("bf16")


def layers(model: Model) -> tuple[Layer, ...]:
    """The layers in the backend's names."""
    return fused_layers(model.modules, backend_name)


def backend_name(name: str) -> str:
    """The backend's name of a module of the files."""
    for old, new in _WRAPPED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


@dataclass(frozen=True)
class Quantization:
    """The backend's own form of all configs: one treatment for all, None where `by_key` says it
    layer by layer; `excluded` names what stays. `error`: it refuses the config altogether.
    """

    treatment: Treatment | None
    excluded: Sequence[str] = ()
    by_key: Mapping[str, Treatment] | None = None
    error: str = ""


class TensorRTReading(Reading):
    """Exclusions come last, and win."""

    def __init__(
        self,
        model: Model,
        patterns: Iterable[Pattern],
        quantization: Quantization,
        version: str,
    ) -> None:
        self.layers = layers(model)
        self.patterns = tuple(patterns)
        self.quantization = quantization
        self.version = version
        self.named = {name: each for each in self.layers for name in (each.name, *each.shards)}

    def outcome(self, layer: Layer) -> Outcome:
        """One listed shard keeps all of a fused layer; a layer's algorithm is its first shard's."""
        if self.quantization.error:
            return Outcome(None, self.quantization.error)
        if layer.kind == "lm_head" or any(m.kind == "router" for m in layer.modules):
            return BF16
        try:
            listed = [n for n in match.candidates(layer) if self._is_excluded(n)]
        except re.error as error:
            return Outcome(None, f"an entry is no regular expression: {error}")
        if listed:
            return Outcome("bf16", note=_kept_whole(layer, listed))
        found = self._quantized(layer)
        if layer.kind == "experts" and any(map(self._is_excluded, layer.shards)):
            return replace(found, note=f"TensorRT-LLM asks only for {layer.name}")
        return found

    def hits(self, pattern: Pattern, name: str) -> bool:
        """A fused layer's name is hit where its own or a shard's is."""
        layer = self.named.get(name)
        if pattern.where == "quantized_layers":
            if layer is None or layer.name != name:
                return pattern.text == name
            return match.key_of(layer, (pattern.text,)) is not None
        names = match.candidates(layer) if layer is not None and layer.name == name else (name,)
        try:
            return any(match.is_excluded(n, [pattern.text], self.version) for n in names)
        except re.error:
            return False

    def _is_excluded(self, name: str) -> bool:
        return match.is_excluded(name, self.quantization.excluded, self.version)

    def _quantized(self, layer: Layer) -> Outcome:
        treatment, note = self.quantization.treatment, ""
        if self.quantization.by_key is not None:
            treatment, note = _by_key(layer, self.quantization.by_key)
        if layer.kind == "experts" and treatment == "fp8_token":
            return Outcome(None, f"TensorRT-LLM has no experts in {WORDS[treatment]}")
        return Outcome(treatment, note=note)


def _by_key(layer: Layer, by_key: Mapping[str, Treatment]) -> tuple[Treatment, str]:
    """The first key that the layer takes, and what that does to its other parts."""
    is_whole = len(layer.modules) == 1
    parts = [layer.name] if is_whole else layer.shards or [each.name for each in layer.modules]
    key = match.key_of(layer, by_key)
    if key is None:
        asked = layer.shards[0] if layer.shards else layer.name
        idle = any(part in by_key for part in parts)
        return "bf16", f"TensorRT-LLM asks only for {asked}" if idle else ""
    alike = is_whole or {by_key.get(part, "bf16") for part in parts} == {by_key[key]}
    return by_key[key], "" if alike else f"all of {layer.name} takes what {key} has"


def _kept_whole(layer: Layer, listed: Sequence[str]) -> str:
    if layer.name in listed or len(listed) == len(layer.shards):
        return ""
    names = " and ".join(name.rsplit(".", 1)[-1] for name in listed)
    return f"{names} alone keeps all of {layer.name} in BF16"
