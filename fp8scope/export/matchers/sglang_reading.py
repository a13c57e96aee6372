"""What SGLang will run each layer in, under one of its lists."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import Layer, Outcome, Pattern, Reading
from fp8scope.export.matchers import sglang_match as match
from fp8scope.export.matchers.sglang_names import names

BF16 = Outcome("bf16")


class SGLangReading(Reading):
    """What all of SGLang's ways have in common."""

    def __init__(self, model: Model, patterns: Iterable[Pattern]) -> None:
        self.names = names(model)
        self.layers = tuple(self._asked(layer) for layer in self.names.layers)
        self.shards = {shard for layer in self.layers for shard in layer.shards}
        self.patterns = tuple(patterns)
        experts = (each for each in self.layers if each.kind == "experts")
        self.expert_names = {name for each in experts for name in (each.name, *each.shards)}
        self.listed = self.entries([p.text for p in self.patterns if p.says == "bf16"])

    def outcome(self, layer: Layer) -> Outcome:
        """Errors are those that SGLang raises while it builds the layer."""
        try:
            return self._outcome(layer)
        except match.Split:
            parts = ", ".join(name.rsplit(".", 1)[-1] for name in layer.shards)
            return Outcome(
                None, f"{layer.name} is one layer of {parts}, and the list names only some of them"
            )
        except re.error as error:
            return Outcome(None, f"an entry is no regular expression: {error}")

    def hits(self, pattern: Pattern, name: str) -> bool:
        """A fused layer's name is hit where all its shards are."""
        try:
            return self._hits(pattern, name)
        except (match.Split, re.error):
            return False

    def _asked(self, layer: Layer) -> Layer:
        """The layer with the shards that this way's matcher asks for."""
        if layer.kind == "experts":
            return layer
        return replace(layer, shards=match.shards(layer.name, self.names.fused))

    def entries(self, texts: Sequence[str]) -> list[str]:
        """What entries of the list of exclusions come to before they are matched."""
        return self.names.listed(texts)

    def never_quantized(self, layer: Layer) -> bool:
        """Routers and some heads are built without the quantization config."""
        is_router = any(module.kind == "router" for module in layer.modules)
        return is_router or (layer.kind == "lm_head" and self.names.plain_head)

    @abstractmethod
    def _outcome(self, layer: Layer) -> Outcome: ...

    @abstractmethod
    def _hits(self, pattern: Pattern, name: str) -> bool: ...


class ModelOptReading(SGLangReading):
    """`modelopt_fp8`: every listed layer stays, all others are FP8 per tensor."""

    def entries(self, texts: Sequence[str]) -> list[str]:
        """Renamed, and also without `language_model.` where a class renames at all."""
        if self.names.mapper == match.Mapper():
            return list(texts)
        listed = self.names.listed(texts)
        return [each for name in listed for each in (name, name.removeprefix("language_model."))]

    def _outcome(self, layer: Layer) -> Outcome:
        if self.never_quantized(layer):
            return BF16
        if self._matches(layer.name, self.listed):
            return BF16
        in_vain = layer.kind == "experts" and any(
            match.is_excluded(n, self.listed) for n in layer.shards
        )
        return Outcome("fp8_tensor", note=f"SGLang asks only for {layer.name}" if in_vain else "")

    def _hits(self, pattern: Pattern, name: str) -> bool:
        entries = self.entries([pattern.text])
        if name in self.shards:  # names of parts are asked for of fused linears, not of experts
            is_expert = name in self.expert_names
            return not is_expert and match.is_skipped(name, entries, self.names.fused)
        return self._matches(name, entries)

    def _matches(self, name: str, listed: Sequence[str]) -> bool:
        if name in self.expert_names:
            return match.is_excluded(name, listed)
        skipped = match.is_skipped(name, listed, self.names.fused)
        return skipped or match.is_excluded(name, listed)


class Fp8Reading(SGLangReading):
    """`fp8`, of an FP8 checkpoint or of a BF16 one quantized while loading."""

    def __init__(
        self,
        model: Model,
        patterns: Iterable[Pattern],
        treatments: tuple[Treatment, Treatment],
        *,
        serialized: bool,
    ) -> None:
        """`treatments` of linears and of experts. Lists of FP8 checkpoints are normalised, and
        matched with the class's fused map; the online way has mostly neither.
        """
        self.treatments = treatments
        self.serialized = serialized
        super().__init__(model, patterns)

    @property
    def fused(self) -> match.Fused:
        """The map that the matcher is given."""
        return self.names.fused if self.serialized else self.names.online

    def entries(self, texts: Sequence[str]) -> list[str]:
        """Normalised where the checkpoint's own list is read, then renamed."""
        return self.names.listed(match.normalised(texts) if self.serialized else texts)

    def _asked(self, layer: Layer) -> Layer:
        if layer.kind == "experts":
            return layer
        return replace(layer, shards=match.shards(layer.name, self.fused))

    def _outcome(self, layer: Layer) -> Outcome:
        if self.never_quantized(layer) or layer.kind == "lm_head":
            return BF16
        if match.is_skipped(layer.name, self.listed, self.fused):
            return BF16
        return Outcome(self.treatments[layer.kind == "experts"])

    def _hits(self, pattern: Pattern, name: str) -> bool:
        return match.is_skipped(name, self.entries([pattern.text]), self.fused)
