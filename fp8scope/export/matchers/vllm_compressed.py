"""What vLLM makes of a compressed-tensors config: its own matching and its own schemes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fp8scope.checkpoint import schemes
from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import CannotRead, Config, Layer, Outcome, Pattern
from fp8scope.export.matchers import vllm_match as match
from fp8scope.export.matchers.fused_layers import linear_class
from fp8scope.export.matchers.groups import groups
from fp8scope.export.matchers.lists import listed
from fp8scope.export.matchers.vllm_reading import BF16, BLOCK, VLLMReading, block_error

# formats that a scheme of floats is looked for in
_ACTIVATIONS = {"naive-quantized", "int-quantized", "float-quantized", "nvfp4-pack-quantized"}
# names that classes, by how they begin, give the first expert's gate, up and down
_EXPERT_SHARDS = {
    "Mixtral": ("w1", "w3", "w2"),
    "PhiMoE": ("w1", "w3", "w2"),
    "MiniMaxM2": ("w1", "w3", "w2"),
    "Lfm2Moe": ("w1", "w3", "w2"),
    "DeepseekV4": ("w1", "w3", "w2"),
    "NemotronH": ("up_proj", "None", "down_proj"),  # it has no gate, and asks for one
}


@dataclass(frozen=True)
class _Scheme:
    weights: Mapping[str, Any]
    inputs: Mapping[str, Any] | None
    format: str | None


class CompressedReading(VLLMReading):
    """Layers take the scheme of the first target that matches; without one they stay BF16."""

    def __init__(self, config: Config, model: Model) -> None:
        """Raises CannotRead where a group has no targets or no weights."""
        said: dict[str, _Scheme] = {}
        ignored = listed(config, config.data, "ignore")
        patterns = [Pattern("ignore", text, "bf16") for text in ignored]
        for name, group, targets in groups(config):
            scheme = _scheme(config, name, group)
            if len(targets) == 1 and targets[0].endswith("Attention"):
                continue
            for target in targets:
                says = schemes.scheme(scheme.weights, scheme.inputs)
                patterns.append(Pattern(f"config_groups.{name}.targets", target, says))
                said[target] = scheme
        self.projections = _projections(model.architecture)
        super().__init__(model, patterns)
        self.listed = self._mapped([p.text for p in self.patterns if p.where == "ignore"])
        self.targets = {new: said[old] for old in said for new in self._mapped([old])}
        self.class_of = {
            name: _class_of(layer) for layer in self.layers for name in (layer.name, *layer.shards)
        }

    def _mapped(self, texts: list[str]) -> list[str]:
        """Only what looks like a path is renamed, not `Linear` and not expressions."""
        mapped = []
        for text in texts:
            is_path = "." in text and not text.startswith("re:")
            new = self.names.mapper.name(text) if is_path else text
            mapped += [new] if new is not None else []
        return mapped

    def _asked(self, layer: Layer) -> Layer:
        if layer.kind == "experts":
            return replace(layer, shards=tuple(dict.fromkeys((*self._first(layer), *layer.shards))))
        return super()._asked(layer)

    def _first(self, layer: Layer) -> tuple[str, ...]:
        """All that is asked of experts: the projections of the first one."""
        return tuple(f"{layer.name}.0.{shard}" for shard in self.projections)

    def _outcome(self, layer: Layer) -> Outcome:
        if layer.kind == "experts":
            return self._experts(layer)
        target = self._target(layer.name, _class_of(layer), self.targets)
        if target is None:
            return BF16
        return replace(_linear(layer, self.targets[target]), note=self._note(layer, target))

    def _target(self, name: str, module_class: str, targets: Mapping[str, _Scheme]) -> str | None:
        if match.is_ignored(name, self.listed, self.names.fused):
            return None
        return match.matched_target(name, module_class, list(targets), self.names.fused)

    def _note(self, layer: Layer, target: str) -> str:
        """Each shard may match a target of its own, of which vLLM takes the first shard's."""
        if match.matching(layer.name, [target], {})[0] or not layer.shards:
            return ""
        own = [match.matched_target(s, "", list(self.targets), {}) for s in layer.shards]
        if all(own) and len({id(self.targets[each]) for each in own if each}) > 1:
            return "vLLM takes the first shard's target for the whole layer"
        return ""

    def _experts(self, layer: Layer) -> Outcome:
        targets = dict(self.targets)
        if "Linear" in targets:
            targets.setdefault("RoutedExperts", targets["Linear"])
        asked = self._first(layer)
        found = [self._target(name, "RoutedExperts", targets) for name in asked]
        schemes = [None if target is None else targets[target] for target in found]
        if any(scheme != schemes[0] for scheme in schemes):
            return Outcome(None, f"{', '.join(asked)} are not all in one group, or not all ignored")
        made = BF16 if schemes[0] is None else _of_experts(layer, schemes[0])
        are_there = len(layer.shards) == len(layer.modules)
        note = "" if are_there else f"vLLM asks for {', '.join(asked)}, which no file has"
        return replace(made, note=note)

    def _hits(self, pattern: Pattern, name: str) -> bool:
        mapped = self._mapped([pattern.text])
        if pattern.where == "ignore":
            return match.is_ignored(name, mapped, self.names.fused)
        module_class = self.class_of.get(name, "ColumnParallelLinear")
        if module_class == "RoutedExperts" and mapped == ["Linear"]:
            return True
        return match.matched_target(name, module_class, mapped, self.names.fused) is not None


def _projections(architecture: str) -> tuple[str, ...]:
    own = (shards for start, shards in _EXPERT_SHARDS.items() if architecture.startswith(start))
    return next(own, ("gate_proj", "up_proj", "down_proj"))


def _scheme(config: Config, name: str, group: Mapping[str, Any]) -> _Scheme:
    weights = group.get("weights")
    if weights is None or group.get("targets") is None:
        raise CannotRead(
            f"group {name} of {config.source} has no weights or no list of targets",
            "vLLM needs both in every group",
        )
    layout = group.get("format") or config.data.get("format")
    return _Scheme(weights, group.get("input_activations") or None, layout)


def _class_of(layer: Layer) -> str:
    if layer.kind == "lm_head":
        return "ParallelLMHead"
    if layer.kind == "experts":
        return "RoutedExperts"
    if layer.modules[0].kind == "router":
        return "GateLinear"
    return linear_class(layer)


def _linear(layer: Layer, scheme: _Scheme) -> Outcome:
    """What the scheme comes to; the error is that of vLLM where it has none of the kind."""
    weights, inputs = scheme.weights, scheme.inputs
    if not _is_float8(weights):
        return Outcome("other")
    if error := _linear_error(layer, scheme):
        return Outcome(None, error)
    if inputs is None or not _is_float8(inputs):
        return Outcome("other")  # the weights alone are FP8
    strategy, _, dynamic = _strategies(scheme)
    if strategy == "block":
        return Outcome(_blocked(weights))
    # dynamic inputs are scaled per token, whatever their strategy
    made: dict[tuple[str, bool], Treatment] = {
        ("tensor", False): "fp8_tensor",
        ("tensor", True): "fp8_tensor_dynamic",
        ("channel", True): "fp8_token",
    }
    return Outcome(made.get((strategy, dynamic), "other"))


def _linear_error(layer: Layer, scheme: _Scheme) -> str:
    strategy, of_inputs, dynamic = _strategies(scheme)
    if scheme.format not in _ACTIVATIONS:
        return f"vLLM has no scheme for FP8 in format {scheme.format!r}"
    if not _is_static(scheme.weights) or strategy not in {"tensor", "channel", "block"}:
        return f"vLLM has no scheme of FP8 weights per {strategy}"
    if strategy == "block":
        if scheme.inputs is not None and not dynamic:
            return "vLLM has no static inputs beside block weights"
        return block_error(layer, _block(scheme.weights)[0])
    if scheme.inputs is not None and not dynamic and of_inputs != "tensor":
        return f"vLLM has no scheme of static inputs per {of_inputs}"
    return ""


def _of_experts(layer: Layer, scheme: _Scheme) -> Outcome:
    weights = scheme.weights
    if not _is_float8(weights):
        return Outcome("other")
    strategy, of_inputs, dynamic = _strategies(scheme)
    pair = f"{strategy} weights and {of_inputs} inputs"
    if scheme.inputs is None or not _is_float8(scheme.inputs) or not _is_static(weights):
        return Outcome(None, f"vLLM's experts have no scheme of {pair}")
    if strategy == "block":
        error = block_error(layer, _block(weights)[0])
        return Outcome(None, error) if error else Outcome(_blocked(weights) if dynamic else "other")
    made: dict[tuple[str, str, bool], Treatment] = {
        ("tensor", "tensor", False): "fp8_tensor",
        ("tensor", "tensor", True): "other",  # inputs per group of 128
        ("channel", "token", True): "fp8_token",
    }
    treatment = made.get((strategy, of_inputs, dynamic))
    if treatment is None:
        return Outcome(None, f"vLLM's experts have no scheme of {pair}")
    return Outcome(treatment)


def _strategies(scheme: _Scheme) -> tuple[str, str, bool]:
    """Of the weights and of the inputs, and whether the latter are scaled at run time."""
    inputs = scheme.inputs
    of_inputs = _strategy(inputs) if inputs is not None else "no"
    return _strategy(scheme.weights), of_inputs, bool(inputs and inputs.get("dynamic", False))


def _strategy(arguments: Mapping[str, Any]) -> str:
    size = arguments.get("group_size")
    implied = "tensor" if size is None else "channel" if size == -1 else "group"
    return str(arguments.get("strategy") or implied).lower()


def _block(weights: Mapping[str, Any]) -> list[int]:
    structure = weights.get("block_structure") or [BLOCK, BLOCK]
    if isinstance(structure, str):
        return [int(size) for size in structure.split("x")]
    return list(structure)


def _blocked(weights: Mapping[str, Any]) -> Treatment:
    return "fp8_block" if _block(weights) == [BLOCK, BLOCK] else "other"


def _is_float8(arguments: Mapping[str, Any]) -> bool:
    return (arguments.get("type", "int"), arguments.get("num_bits", 8)) == ("float", 8)


def _is_static(weights: Mapping[str, Any]) -> bool:
    return bool(weights.get("symmetric", True)) and not weights.get("dynamic", False)
