"""Transformer Engine's debug config: which of its layers leave the FP8 recipe.

Its names depend on who made the model, so each naming is a form of its own: `yaml` where every
nn.Linear of a transformers model became a te.Linear (accelerate's `convert_model`),
`transformer-layer` where its blocks are te.TransformerLayer, `megatron` in Megatron-Core. All are
those that `debug_api.infer_and_assign_layer_names` gives; without it layers are `Layer_1`, ….
Blocks count from 1 but in the first. The recipe is one for all, and given in code.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from fp8scope.export import runtime
from fp8scope.export.consumer import (
    SAYS,
    CannotExpress,
    CannotRead,
    Config,
    Consumer,
    Document,
    Form,
    Layer,
    Outcome,
    Pattern,
    Reading,
)
from fp8scope.export.model import WORDS, Model, Module, Treatment

RECIPES: dict[Treatment, str] = {
    "fp8_tensor": "DelayedScaling(): run the calibration text under autocast(calibrating=True), "
    "then torch.no_grad() keeps the scales",
    "fp8_tensor_dynamic": "Float8CurrentScaling()",
    "fp8_block": "Float8BlockScaling(), with NVTE_FP8_BLOCK_SCALING_FP32_SCALES=1 in the "
    "environment, or scales are powers of two",
}
DISABLE = {"DisableQuantizationLayer", "DisableFP8Layer"}
DISABLE_GEMM = {"DisableQuantizationGEMM", "DisableFP8GEMM"}
CHANGE = {"FakeQuant", "PerTensorScaling"}
WATCH = {"LogTensorStats", "LogFp8TensorStats", "LogNvfp4TensorStats", "DumpTensors"}

# what a linear of a block is for, by how it is called in the attention and elsewhere
_ROLES = {
    "attention": {
        "qkv": {"q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn"},
        "proj": {"o_proj", "out_proj", "dense", "c_proj"},
    },
    "mlp": {
        "fc1": {"gate_proj", "up_proj", "gate_up_proj", "fc1", "dense_h_to_4h", "c_fc"},
        "fc2": {"down_proj", "fc2", "dense_4h_to_h", "c_proj"},
    },
}
_BLOCK = re.compile(r"^(?P<before>.*?)(?P<list>layers|h)\.(?P<number>\d+)\.(?P<inside>.+)$")
_TE = {
    "qkv": "self_attention.layernorm_qkv",
    "proj": "self_attention.proj",
    "fc1": "layernorm_mlp.fc1",
    "fc2": "layernorm_mlp.fc2",
}
_MEGATRON = {
    "qkv": "self_attention.linear_qkv",
    "proj": "self_attention.linear_proj",
    "fc1": "mlp.linear_fc1",
    "fc2": "mlp.linear_fc2",
}


class _Unnamed(Exception):
    """A module that has no name here, with what is wrong."""


def _converted(module: Module) -> str:
    return f"model.{module.runtime}"


def _te_block(module: Module) -> str:
    found, role = _role(module)
    if "expert" in module.runtime:
        raise _Unnamed(f"te.TransformerLayer has no experts ({module.runtime})")
    before = f"model.{found['before']}{found['list']}"
    return f"{before}.{int(found['number']) + 1}.{_TE[role]}"


def _megatron(module: Module) -> str:
    found, role = _role(module)
    inside = _MEGATRON[role]
    if module.kind == "expert":
        inside = inside.replace("mlp.", "mlp.experts.") + ".gemm_0"
    elif "shared_expert" in module.runtime:
        inside = inside.replace("mlp.", "mlp.shared_experts.")
    return f"model.module.module.decoder.layers.{int(found['number']) + 1}.{inside}"


def _role(module: Module) -> tuple[re.Match[str], str]:
    if found := _BLOCK.match(module.runtime):
        part = "attention" if "att" in found["inside"] else "mlp"
        last = module.runtime.rsplit(".", 1)[-1]
        for role, names in _ROLES[part].items():
            if last in names:
                return found, role
    raise _Unnamed(f"{module.runtime} has no place in a block of attention and MLP")


NAMINGS: dict[str, Callable[[Module], str]] = {
    "yaml": _converted,
    "transformer-layer": _te_block,
    "megatron": _megatron,
}


def _layers(model: Model, naming: str) -> tuple[Layer, ...]:
    """Raises _Unnamed."""
    parts: dict[str, list[Module]] = defaultdict(list)
    for module in model.modules:
        own = _is_engines(model, module, naming)
        parts[NAMINGS[naming](module) if own else module.runtime].append(module)
    return tuple(
        Layer(name, tuple(each), (), "experts" if each[0].kind == "expert" else "linear")
        for name, each in parts.items()
    )


def _is_engines(model: Model, module: Module, naming: str) -> bool:
    """Whether it is a module of Transformer Engine at all; the others stay in BF16."""
    if naming == "yaml":
        divides = module.in_features % 16 == 0 and module.out_features % 16 == 0
        return runtime.is_linear_class(model, module) and divides
    return module.kind in {"linear", "expert"}


def write(model: Model) -> Document:
    """A section for each layer that stays in BF16, in every naming that can say it."""
    treatment = _only(model.wanted() - {"bf16"})
    made: dict[str, dict[str, Any]] = {}
    refusals = []
    for naming in NAMINGS:
        try:
            made[naming] = _sections(model, naming)
        except (_Unnamed, CannotExpress) as refusal:
            refusals.append(str(refusal))
    if not made:
        raise CannotExpress(f"Transformer Engine: {refusals[0]}", "keep it in BF16")
    forms = {naming: Form(".yaml", _text(model, naming, data)) for naming, data in made.items()}
    return Document(
        kind="online config",
        forms=forms,
        config=next(iter(made.values())),
        use=(
            "debug_api.initialize(config_file=FILE, feature_dirs=[<transformer_engine>/debug/"
            "features])  # nvdlfw_inspect.api, before any module is made",
            "debug_api.infer_and_assign_layer_names(model)  # after, or no name matches",
            f"recipe: {RECIPES[treatment]}",
        ),
    )


def _only(treatments: set[Treatment]) -> Treatment:
    for treatment in sorted(treatments - set(RECIPES)):
        what = f"Transformer Engine has no recipe for {WORDS[treatment]}"
        raise CannotExpress(what, "the nearest is FP8 per block (fp8_block); or --to torchao")
    if len(treatments) > 1:
        words = " and ".join(sorted(WORDS[each] for each in treatments))
        what = f"Transformer Engine has one recipe for a model, and {words} are wanted"
        raise CannotExpress(what, "plan one of them, or --to compressed-tensors, which has both")
    return treatments.pop() if treatments else "fp8_tensor"


def _sections(model: Model, naming: str) -> dict[str, Any]:
    sections: dict[str, Any] = {}
    for layer in _layers(model, naming):
        first = layer.modules[0]
        if not _is_engines(model, first, naming):
            if runtime.wanted(layer) != "bf16":
                raise _Unnamed(f"{first.runtime} is no module of Transformer Engine")
        elif runtime.wanted(layer) == "bf16":
            sections[f"bf16 {layer.name}"] = {
                "enabled": True,
                "layers": {"layer_name_regex_pattern": _regex(layer, naming)},
                "transformer_engine": {"DisableQuantizationLayer": {"enabled": True}},
            }
    if not sections:
        raise _Unnamed("nothing is to be excluded, and it refuses a config without a section")
    return sections


def _regex(layer: Layer, naming: str) -> str:
    """Megatron's name of a model depends on what it is wrapped in; experts are numbered."""
    if naming != "megatron":
        return f"^{re.escape(layer.name)}$"
    inside = re.escape(layer.name.removeprefix("model.module.module."))
    if layer.kind == "experts":
        inside = inside.replace("gemm_0", r"gemm_\d+")
    return rf"(?:^|\.){inside}$"


def _text(model: Model, naming: str, data: Mapping[str, Any]) -> str:
    named = {
        "yaml": "each nn.Linear of the transformers model became a te.Linear",
        "transformer-layer": "blocks are te.TransformerLayer, with layer_number from 1",
        "megatron": "Megatron-Core runs it, whose blocks count from 1",
    }
    head = [
        f"# {SAYS['online config']}",
        f"# Transformer Engine's debug config for {model.name}; names where {named[naming]},",
        "# after debug_api.infer_and_assign_layer_names(model)",
    ]
    if model.folded:
        head.append("# fold smoothing into the BF16 model first: the recipe does not")
    text: str = yaml.safe_dump(dict(data), sort_keys=False, width=200)
    return "\n".join(head) + "\n" + text


@dataclass(frozen=True)
class _Section:
    name: str
    where: Mapping[str, Any]
    features: Mapping[str, Any]
    acts: bool  # has any features at all; without, it is as if it matched nothing

    def entries(self) -> Iterator[tuple[str, str]]:
        """Each kind of entry, and what it says."""
        if (exact := self.where.get("exact_layer_names")) is not None:
            yield from (("exact_layer_names", str(each)) for each in exact)
        elif (regex := self.where.get("layer_name_regex_pattern")) is not None:
            yield "layer_name_regex_pattern", str(regex)
        else:
            for key in ("layer_types", "layer_numbers"):
                given = self.where.get(key)
                listed = given if isinstance(given, list) else [] if given is None else [given]
                yield from ((key, str(each)) for each in listed)

    def matches(self, name: str) -> bool:
        """Raises ValueError where Transformer Engine does, and re.error."""
        where = self.where
        if (exact := where.get("exact_layer_names")) is not None:
            if name not in exact:
                raise ValueError("exact_layer_names raises for every layer that it does not name")
            return True
        if (regex := where.get("layer_name_regex_pattern")) is not None:
            return re.search(regex, name) is not None
        kinds = ("layer_numbers", "layer_types")
        return all(self.hits(key, name) for key in kinds if where.get(key) is not None)

    def hits(self, key: str, name: str, entry: str | None = None) -> bool:
        """One kind of entry alone, or one entry of it."""
        given = self.where[key] if entry is None else [entry]
        if key == "layer_types":
            return any(each == "all" or each in name for each in given)
        if key == "layer_numbers":
            numbers = re.findall(r"(?<!fc)\d+", name)
            if len(numbers) != 1:
                raise ValueError(f"layer_numbers: there is no single number in {name}")
            return _counts(given, int(numbers[0]))
        if key == "exact_layer_names":
            return name in given
        return any(re.search(each, name) for each in given)

    def treatment(self, recipe: Treatment) -> Treatment:
        """What it makes of the forward pass of its layers."""
        on = {name: each for name, each in self.features.items() if each and each.get("enabled")}
        forward = {name for name, each in on.items() if "fprop" in _gemms(each)}
        if CHANGE & forward:
            return "other"
        return "bf16" if DISABLE & set(on) or DISABLE_GEMM & forward else recipe


def _counts(given: Any, number: int) -> bool:
    for each in given if isinstance(given, list) else [given]:
        text = str(each)
        if text == "all" or text == str(number):
            return True
        first, dash, last = text.partition("-")
        if dash and int(first) <= number <= int(last):
            return True
    return False


def _gemms(feature: Mapping[str, Any]) -> set[str]:
    return set(feature.get("gemms", ())) | {s.get("gemm") for s in feature.get("gemms_struct", ())}


def _section(name: str, data: Any, source: str) -> _Section | None:
    """None where it is switched off. Raises CannotRead where the debug tool refuses to start."""
    where = f"{source}: section {name}"
    if not isinstance(data, dict) or "enabled" not in data:
        raise CannotRead(f"{where} has no “enabled”", "add enabled: True")
    if not data["enabled"]:
        return None
    layers = data.get("layers")
    known = ("layer_types", "exact_layer_names", "layer_numbers", "layer_name_regex_pattern")
    if not isinstance(layers, dict) or not any(layers.get(key) is not None for key in known):
        raise CannotRead(f"{where} does not say which layers", f"layers: with one of {known}")
    features = data.get("transformer_engine") or {}
    for feature in features:
        if feature not in DISABLE | DISABLE_GEMM | CHANGE | WATCH:
            raise CannotRead(f"{where}: there is no feature {feature}", "mend its name")
    if isinstance(layers.get("layer_numbers"), int):
        raise CannotRead(f"{where}: layer_numbers is a number", "write a list, or all")
    return _Section(name, layers, features, acts=bool(set(data) - {"enabled", "layers"}))


class _Reading(Reading):
    def __init__(self, model: Model, naming: str, sections: list[_Section]) -> None:
        self._model = model
        self._naming = naming
        self._sections = sections
        fp8 = model.wanted() - {"bf16"}
        self._recipe: Treatment = next(iter(fp8)) if len(fp8) == 1 else "other"
        self.layers = _layers(model, naming)
        self._keys: dict[Pattern, tuple[_Section, str]] = {}
        for section in sections:
            for key, entry in section.entries():
                pattern = Pattern(section.name, entry, section.treatment(self._recipe))
                self._keys[pattern] = (section, key)
        self.patterns = tuple(self._keys)

    def hits(self, pattern: Pattern, name: str) -> bool:
        section, key = self._keys[pattern]
        try:
            return section.hits(key, name, pattern.text)
        except (ValueError, re.error):
            return False

    def outcome(self, layer: Layer) -> Outcome:
        if not _is_engines(self._model, layer.modules[0], self._naming):
            return Outcome("bf16", note="no module of Transformer Engine")
        try:
            found = [each for each in self._sections if each.matches(layer.name)]
        except (ValueError, re.error) as error:
            return Outcome(None, f"Transformer Engine raises: {error}")
        acting = [each for each in found if each.acts]
        if len(acting) > 1 or (acting and found.index(acting[0]) + 1 < len(found)):
            names = " and ".join(f"“{each.name}”" for each in found[:2])
            return Outcome(None, f"Transformer Engine raises: sections {names} both match it")
        if not acting or (treatment := acting[0].treatment(self._recipe)) == self._recipe:
            return Outcome(self._recipe, note="as the recipe given to autocast says")
        return Outcome(treatment)


def read(config: Config, model: Model, version: str) -> Reading:
    """In the naming in which most entries match; the first of those that are even."""
    del version
    if not isinstance(config.data, dict):
        raise CannotRead(f"{config.source} has no sections", "a mapping of named sections")
    read_all = (_section(name, each, config.source) for name, each in config.data.items())
    sections = [each for each in read_all if each is not None]
    if not sections:
        raise CannotRead(f"{config.source} has no section that is enabled", "enable one")
    readings = []
    for naming in NAMINGS:
        try:
            readings.append(_Reading(model, naming, sections))
        except _Unnamed:
            continue
    return max(readings, key=_matching)


def _matching(reading: _Reading) -> int:
    names = [layer.name for layer in reading.layers]
    return sum(any(reading.hits(each, name) for name in names) for each in reading.patterns)


CONSUMER = Consumer(
    name="transformer-engine",
    about="Transformer Engine's debug YAML: layers that leave the FP8 recipe",
    write=write,
    reads={"transformer-engine": read},
    versions=("2.20.2",),
)
