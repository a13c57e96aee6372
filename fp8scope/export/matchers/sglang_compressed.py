"""What SGLang makes of a compressed-tensors config: its own matching and its own schemes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fp8scope.checkpoint import schemes
from fp8scope.core.modules import Model
from fp8scope.export.consumer import CannotRead, Config, Layer, Outcome, Pattern
from fp8scope.export.matchers import sglang_match as match
from fp8scope.export.matchers.fused_layers import linear_class
from fp8scope.export.matchers.groups import groups
from fp8scope.export.matchers.lists import listed
from fp8scope.export.matchers.sglang_reading import BF16, SGLangReading

# formats whose `input_activations` are read at all
_ACTIVATIONS = {
    "naive-quantized",
    "int-quantized",
    "float-quantized",
    "nvfp4-pack-quantized",
    "pack-quantized",
}
_EXPERT_SHARDS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class _Scheme:
    weights: Mapping[str, Any]
    inputs: Mapping[str, Any] | None


class CompressedReading(SGLangReading):
    """Layers are asked for by their own names, and by shards where the class has a fused map."""

    def __init__(self, config: Config, model: Model) -> None:
        """Raises CannotRead where a group has no targets or no weights."""
        self.targets: dict[str, _Scheme] = {}
        excluded = listed(config, config.data, "ignore")
        patterns = [Pattern("ignore", text, "bf16") for text in excluded]
        for name, group, targets in groups(config):
            scheme = _scheme(config, name, group)
            says = schemes.scheme(scheme.weights, scheme.inputs)
            for target in targets:
                patterns.append(Pattern(f"config_groups.{name}.targets", target, says))
                self.targets[target] = scheme
        self.architecture = model.architecture
        super().__init__(model, patterns)
        ignored = [p.text for p in patterns if p.where == "ignore"]
        self.listed = self.entries(ignored)  # a group may also say BF16, and is no exclusion
        renamed = ((self.names.mapper.name(t), scheme) for t, scheme in self.targets.items())
        self.targets = {target: scheme for target, scheme in renamed if target is not None}
        self.class_of = {
            name: _class_of(layer) for layer in self.layers for name in (layer.name, *layer.shards)
        }

    def _asked(self, layer: Layer) -> Layer:
        if layer.kind == "experts":
            return replace(layer, shards=tuple(dict.fromkeys((*_asked_of(layer), *layer.shards))))
        last = layer.name.rsplit(".", 1)[-1]
        shards = self.names.fused.get(last, ())
        return replace(layer, shards=tuple(layer.name.replace(last, shard) for shard in shards))

    def _outcome(self, layer: Layer) -> Outcome:
        if self.never_quantized(layer):
            return BF16
        if layer.kind == "lm_head":
            return self._head(layer)
        if layer.kind == "experts":
            return self._experts(layer)
        if match.is_ignored(layer.name, self.listed, self.names.fused) or not self.targets:
            return BF16
        target = self._target(layer.name, _class_of(layer))
        if target is None:
            return Outcome(None, f"{_unmatched(layer.name)}{self._shardless(layer)}")
        return replace(_runs(self.targets[target]), note=self._shardless(layer).removeprefix("; "))

    def _shardless(self, layer: Layer) -> str:
        """What to know of a fused layer whose class declares no shards, and which lists name."""
        parts = match.shards(layer.name, {})
        texts = {pattern.text for pattern in self.patterns}
        if layer.shards or not texts.intersection(parts):
            return ""
        return f"; SGLang's {self.architecture} declares no shards of it: list it by its own name"

    def _head(self, layer: Layer) -> Outcome:
        if match.is_ignored(layer.name, self.listed, self.names.fused):
            return BF16
        named = (t for t in self.targets if match.names_or_matches(layer.name, [t]))
        target = next(named, None)
        if target is None:
            return BF16
        if self.targets[target].weights.get("strategy") == "block":
            return Outcome(None, "SGLang has no head that is quantized per block")
        return _runs(self.targets[target])

    def _experts(self, layer: Layer) -> Outcome:
        targets = dict(self.targets)
        if "Linear" in targets:
            targets.setdefault("FusedMoE", targets["Linear"])
        found: list[_Scheme | None] = []
        for name in _asked_of(layer):
            if match.is_ignored(name, self.listed, self.names.fused) or not targets:
                found.append(None)
                continue
            target = match.matched_target(name, "FusedMoE", list(targets), self.names.fused)
            if target is None:
                return Outcome(None, _unmatched(name))
            found.append(targets[target])
        if any(scheme != found[0] for scheme in found):
            return Outcome(None, f"the projections of {layer.name} are in different groups")
        asked = {".0.gate_proj", ".0.up_proj", ".0.down_proj"}
        is_usual = all(f"{layer.name}{end}" in {m.name for m in layer.modules} for end in asked)
        note = "" if is_usual else f"SGLang asks for {layer.name}.0.gate_proj, .up_proj, .down_proj"
        if found[0] is None:
            return replace(BF16, note=note)
        return replace(_runs(found[0], experts=True), note=note)

    def _target(self, name: str, module_class: str) -> str | None:
        return match.matched_target(name, module_class, list(self.targets), self.names.fused)

    def _hits(self, pattern: Pattern, name: str) -> bool:
        text = self.names.mapper.name(pattern.text)
        if text is None:
            return False
        module_class = self.class_of.get(name, "ColumnParallelLinear")
        if pattern.where == "ignore":
            return match.is_ignored(name, [text], self.names.fused)
        if module_class == "ParallelLMHead":
            return match.names_or_matches(name, [text])
        if module_class == "FusedMoE" and text == "Linear":
            return True
        return match.matched_target(name, module_class, [text], self.names.fused) is not None


def _scheme(config: Config, name: str, group: Mapping[str, Any]) -> _Scheme:
    weights = group.get("weights")
    if weights is None or group.get("targets") is None:
        raise CannotRead(
            f"group {name} of {config.source} has no weights or no list of targets",
            "SGLang needs both in every group",
        )
    layout = group.get("format") or config.data.get("format")
    inputs = group.get("input_activations") if layout in _ACTIVATIONS else None
    return _Scheme({**weights, "format": layout}, inputs)


def _asked_of(layer: Layer) -> tuple[str, ...]:
    return tuple(f"{layer.name}.0.{shard}" for shard in _EXPERT_SHARDS)


def _class_of(layer: Layer) -> str:
    if layer.kind == "lm_head":
        return "ParallelLMHead"
    if layer.kind == "experts":
        return "FusedMoE"
    return linear_class(layer)


def _unmatched(name: str) -> str:
    return f"no target matches {name}, and it is not ignored"


def _runs(scheme: _Scheme, *, experts: bool = False) -> Outcome:
    """What the scheme comes to; the error is that of SGLang where it has none of the kind."""
    weights, inputs = scheme.weights, scheme.inputs
    if weights["format"] not in _ACTIVATIONS:
        return Outcome(None, f"SGLang has no scheme for format {weights['format']!r}")
    if weights.get("type", "int") != "float":
        return Outcome("other")
    made = _made(weights, inputs, experts=experts)
    if not made:
        of_inputs = inputs.get("strategy", "tensor") if inputs else "no"
        owner = "SGLang's experts have" if experts else "SGLang has"
        strategy = weights.get("strategy", "tensor")
        return Outcome(None, f"{owner} no scheme of {strategy} weights and {of_inputs} inputs")
    return Outcome(schemes.scheme(weights, inputs))


def _made(weights: Mapping[str, Any], inputs: Mapping[str, Any] | None, *, experts: bool) -> bool:
    """Whether SGLang has a scheme for these."""
    strategy = weights.get("strategy", "tensor")
    if weights.get("dynamic", False) or strategy not in {"tensor", "channel", "block"}:
        return False
    if inputs is None:
        return strategy != "block" and not experts
    of_inputs, dynamic = inputs.get("strategy", "tensor"), bool(inputs.get("dynamic", False))
    if not dynamic and of_inputs != "tensor":
        return False
    known = {("tensor", "tensor"), ("channel", "token")}
    return not experts or strategy == "block" or (strategy, of_inputs) in known
