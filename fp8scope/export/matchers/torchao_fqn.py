"""What FqnToConfig means: to torchao's own `quantize_`, and to transformers, which differs.

`quantize_` takes, in this order: the exact name of a parameter, of a module, all `re:` patterns
that match the whole name of a parameter, the first that matches a module's, `_default` for linears.
Transformers goes through the parameters itself, where the first `re:` of either wins.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import CannotRead, Config, Layer, Outcome, Pattern, Reading
from fp8scope.export.matchers import transformers_layers

FLOAT8 = "Float8DynamicActivationFloat8WeightConfig"
GRANULARITY: dict[Treatment, str] = {
    "fp8_token": "PerRow()",
    "fp8_tensor_dynamic": "PerTensor()",
    "fp8_block": "[PerBlock([1, 128]), PerBlock([128, 128])]",
}
# what makes of a layer that which is wanted of it, of its rows and columns
DIVISOR: dict[Treatment, int] = {"fp8_token": 16, "fp8_tensor_dynamic": 16, "fp8_block": 128}


# As config.json holds it
JSON_GRANULARITY: dict[Treatment, list[dict[str, Any]]] = {
    "fp8_token": [{"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}] * 2,
    "fp8_tensor_dynamic": [{"_type": "PerTensor", "_version": 1, "_data": {}}] * 2,
    "fp8_block": [
        {"_type": "PerBlock", "_version": 1, "_data": {"block_size": [rows, 128]}}
        for rows in (1, 128)
    ],
}


def read(config: Config, model: Model, version: str) -> Reading:
    """Of names and configs by themselves, or of config.json's, which goes through transformers."""
    del version
    data = config.data
    if not isinstance(data, dict):
        raise CannotRead(f"{config.source} is no mapping of names to configs", "check the file")
    if "quant_type" not in data:
        return _QuantizeReading(model, _configs(data, config.source))
    kinds = data["quant_type"]
    if not isinstance(kinds, dict) or set(kinds) != {"default"}:
        what = f"{config.source}: quant_type is not an object with “default” alone"
        raise CannotRead(what, "write it with TorchAoConfig, from a config object of torchao")
    listed = data.get("modules_to_not_convert")
    if not isinstance(listed, list | None) or not all(isinstance(e, str) for e in listed or ()):
        what = f"{config.source}: modules_to_not_convert is no list of names"
        raise CannotRead(what, "a list of strings, or null")
    if listed is None:
        listed = [module.runtime for module in model.modules if module.kind == "lm_head"]
    configs = _configs(kinds["default"], config.source)
    return _TransformersReading(model, configs, listed)


def _configs(data: Any, source: str) -> dict[str, Treatment]:
    if not isinstance(data, dict):
        raise CannotRead(f"{source}: quant_type holds no config", "check the file")
    if data.get("_type") in ("FqnToConfig", "ModuleFqnToConfig"):
        inside = _object(data.get("_data"), source)
        data = inside.get("fqn_to_config") or inside.get("module_fqn_to_config")
        data = _object(data, source)
    elif "_type" in data:
        data = {"_default": data}
    for name, words in data.items():
        if words is not None and not isinstance(words, dict):
            raise CannotRead(f"{source}: {name} has no config but {words!r}", "an object, or null")
    return {name: _treatment(words) for name, words in data.items()}


def _object(data: Any, source: str) -> dict[str, Any]:
    if not isinstance(data or {}, dict):
        raise CannotRead(f"{source}: quant_type holds {data!r} for a mapping", "check the file")
    return data or {}


def _is_granularity(each: Any) -> bool:
    return isinstance(each, dict) and isinstance(each.get("_data", {}), dict)


def _treatment(words: Mapping[str, Any] | None) -> Treatment:
    if words is None:
        return "bf16"
    fields = words.get("_data", words)
    if words.get("_type", words.get("type")) != FLOAT8 or not isinstance(fields, Mapping):
        return "other"
    given = fields.get("granularity")
    asked: dict[str, Treatment] = {word: key for key, word in GRANULARITY.items()}
    plain = {word.removesuffix("()"): key for word, key in asked.items()}
    if given is None:
        return "fp8_tensor_dynamic"
    if isinstance(given, str):
        return asked.get(given, plain.get(given, "other"))
    return _per_config(given) if isinstance(given, list) else "other"


def _per_config(granularities: list[Any]) -> Treatment:
    if not all(_is_granularity(each) for each in granularities):
        return "other"
    kinds = [each.get("_data", {}) | {"kind": each.get("_type")} for each in granularities]
    alike = (
        treatment
        for treatment, known in JSON_GRANULARITY.items()
        if kinds == [each["_data"] | {"kind": each["_type"]} for each in known]
    )
    return next(alike, "other")


class _Reading(Reading):
    """What both ways have in common. Of a linear the parameter is its weight."""

    def __init__(
        self, model: Model, configs: Mapping[str, Treatment], skipped: Iterable[str] = ()
    ) -> None:
        self.model = model
        self.layers = transformers_layers.layers(model)
        self.configs = configs
        self.skipped = tuple(skipped)
        self.patterns = tuple(
            Pattern("fqn_to_config", name, treatment) for name, treatment in self.configs.items()
        ) + tuple(Pattern("modules_to_not_convert", entry, "bf16") for entry in self.skipped)
        self._by_name = {layer.name: layer for layer in self.layers}
        self._regexes = {key: key[3:] for key in self.configs if key.startswith("re:")}
        self._broken = transformers_layers.broken((*self._regexes.values(), *self.skipped))
        self._stacks: dict[str, list[str]] = {}
        for layer in self.layers:
            module, parameter = self._names(layer)
            self._stacks.setdefault(module, []).append(parameter)

    def hits(self, pattern: Pattern, name: str) -> bool:
        layer = self._by_name.get(name)
        if layer is None:
            return False
        names = self._names(layer)
        try:
            if pattern.where == "modules_to_not_convert":
                return transformers_layers.skips(pattern.text, names[1])
            if pattern.text == "_default":
                return self._is_linear(layer)
            if pattern.text.startswith("re:"):
                return any(re.fullmatch(pattern.text[3:], each) for each in names)
        except re.error:
            return False
        return pattern.text in names

    def outcome(self, layer: Layer) -> Outcome:
        if self._broken:
            return Outcome(None, self._broken)
        chosen = self._chosen(layer)
        if isinstance(chosen, Outcome):
            return chosen
        return self._applied(layer, chosen)

    @abstractmethod
    def _chosen(self, layer: Layer) -> Treatment | Outcome:
        """What the config says of it, or what is raised over it."""

    def _applied(self, layer: Layer, treatment: Treatment) -> Outcome:
        """What becomes of the weight, once a config is chosen for it."""
        if treatment not in DIVISOR:
            return Outcome(treatment)
        first = layer.modules[0]
        if first.out_features % 16 or first.in_features % 16:
            return Outcome(
                "bf16", note="torchao leaves a weight as it is whose sides 16 does not divide"
            )
        if layer.kind == "experts" and treatment != "fp8_token":
            return Outcome(None, "torchao's product with stacked experts takes PerRow only")
        if problem := unsuited(self.model, layer, treatment):
            return Outcome(None, f"torchao: {layer.name} {problem}")
        return Outcome(treatment)

    def _names(self, layer: Layer) -> tuple[str, str]:
        """Of the module and of the parameter."""
        if layer.kind == "experts":
            return layer.name.rpartition(".")[0], layer.name
        return layer.name, f"{layer.name}.weight"

    def _is_linear(self, layer: Layer) -> bool:
        return transformers_layers.is_linear_class(self.model, layer.modules[0])

    def _matching(self, name: str) -> list[Treatment]:
        """By patterns, in their order."""
        matching = (key for key, text in self._regexes.items() if re.fullmatch(text, name))
        return [self.configs[key] for key in matching]


class _QuantizeReading(_Reading):
    """torchao's own `quantize_(model, config, filter_fn=None)`."""

    def _chosen(self, layer: Layer) -> Treatment | Outcome:
        module, parameter = self._names(layer)
        parts = self._stacks[module]
        if len(parts) > 1 and all(self.configs.get(part) == "bf16" for part in parts):
            what = "quantize_ raises IndexError (pop index out of range)"
            return Outcome(None, f"{what} where both stacks of {module} are None; leave them out")
        for parent in _parents(module):  # quantize_ meets the outermost first
            if self._of_module(parent) not in {None, "bf16"}:
                whole = parent or "the model itself"
                return Outcome(None, f"quantize_ raises AssertionError: {whole} has no weight")
        exact = any(part in self.configs for part in parts)
        named = module in self.configs and not exact
        if exact or (not named and any(self._matching(part) for part in parts)):
            return self._of_parameter(parameter)
        chosen = self._of_module(module)
        if chosen is None:
            chosen = self.configs.get("_default", "bf16") if self._is_linear(layer) else "bf16"
        if layer.kind == "experts" and chosen != "bf16":
            return Outcome(None, f"quantize_ raises AssertionError: {module} has no weight")
        return chosen

    def _of_parameter(self, name: str) -> Treatment | Outcome:
        """An exact name does not keep patterns from being applied on top of it, unless None."""
        exact = self.configs.get(name)
        if exact == "bf16":
            return exact
        applied = [each for each in (exact, *self._matching(name)) if each not in {None, "bf16"}]
        if len(applied) > 1:
            return Outcome(None, f"torchao quantizes {name} twice: {len(applied)} entries match it")
        return next((each for each in applied if each is not None), "bf16")

    def _of_module(self, name: str) -> Treatment | None:
        if name in self.configs:
            return self.configs[name]
        return next(iter(self._matching(name)), None)


class _TransformersReading(_Reading):
    """Transformers' TorchAoConfig, parameter by parameter."""

    def _chosen(self, layer: Layer) -> Treatment:
        module, parameter = self._names(layer)
        if any(transformers_layers.skips(entry, parameter) for entry in self.skipped):
            return "bf16"
        for name in (parameter, module):
            if name in self.configs:
                return self.configs[name]
        for key, text in self._regexes.items():
            if re.fullmatch(text, parameter) or re.fullmatch(text, module):
                return self.configs[key]
        return self.configs.get("_default", "bf16") if self._is_linear(layer) else "bf16"


def _parents(name: str) -> Iterator[str]:
    """Of the whole model, which is "", down to what holds `name`."""
    parts = name.split(".")
    return (".".join(parts[:depth]) for depth in range(len(parts)))


def unsuited(model: Model, layer: Layer, treatment: Treatment) -> str:
    """Why torchao cannot run the layer so, "" where it can."""
    first = layer.modules[0]
    if transformers_layers.is_transposed(model, first):
        return "is a Conv1D, whose product torchao's FP8 tensors do not have"
    size = DIVISOR.get(treatment, 1)
    if first.out_features % size or first.in_features % size:
        return f"is {first.out_features} x {first.in_features}, not in multiples of {size}"
    return ""
