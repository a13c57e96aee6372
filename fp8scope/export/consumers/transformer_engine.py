"""Transformer Engine's debug config: which of its layers leave the FP8 recipe.

Its names depend on who made the model, so each naming is a form of its own: `yaml` where every
nn.Linear of a transformers model became a te.Linear (accelerate's `convert_model`),
`transformer-layer` where its blocks are te.TransformerLayer, `megatron` in Megatron-Core. All are
those that `debug_api.infer_and_assign_layer_names` gives; without it layers are `Layer_1`, ….
Blocks count from 1 but in the first. The recipe is one for all, and given in code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from fp8scope.core.modules import WORDS, Model, Treatment
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
from fp8scope.export.matchers import transformers_layers
from fp8scope.export.matchers.te_debug_sections import Section, section
from fp8scope.export.matchers.te_names import NAMINGS, Unnamed, is_engines, layers
from fp8scope.export.refusals import refuse_online

RECIPES: dict[Treatment, str] = {
    "fp8_tensor": "DelayedScaling(): run the calibration text under autocast(calibrating=True), "
    "then torch.no_grad() keeps the scales",
    "fp8_tensor_dynamic": "Float8CurrentScaling()",
    "fp8_block": "Float8BlockScaling(), with NVTE_FP8_BLOCK_SCALING_FP32_SCALES=1 in the "
    "environment, or scales are powers of two",
}


def write(model: Model) -> Document:
    """A section for each layer that stays in BF16, in every naming that can say it."""
    treatment = _only(model.wanted() - {"bf16"})
    refuse_online("Transformer Engine", model)
    made: dict[str, dict[str, Any]] = {}
    refusals = []
    for naming in NAMINGS:
        try:
            made[naming] = _sections(model, naming)
        except (Unnamed, CannotExpress) as refusal:
            refusals.append(str(refusal))
    if not made:
        what = "; ".join(dict.fromkeys(refusals))
        raise CannotExpress(f"Transformer Engine: {what}", "keep those in BF16, or --to list")
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
    for layer in layers(model, naming):
        first = layer.modules[0]
        if not is_engines(model, first, naming):
            if transformers_layers.wanted(layer) != "bf16":
                raise Unnamed(f"{first.runtime} is no module of Transformer Engine")
        elif transformers_layers.wanted(layer) == "bf16":
            sections[f"bf16 {layer.name}"] = {
                "enabled": True,
                "layers": {"layer_name_regex_pattern": _regex(layer, naming)},
                "transformer_engine": {"DisableQuantizationLayer": {"enabled": True}},
            }
    if not sections:
        raise Unnamed("nothing is to be excluded, and it refuses a config without a section")
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
    text: str = yaml.safe_dump(dict(data), sort_keys=False, width=200)
    return "\n".join(head) + "\n" + text


class _Reading(Reading):
    def __init__(self, model: Model, naming: str, sections: list[Section]) -> None:
        self._model = model
        self._naming = naming
        self._sections = sections
        fp8 = model.wanted() - {"bf16"}
        self._recipe: Treatment = next(iter(fp8)) if len(fp8) == 1 else "other"
        self.layers = layers(model, naming)
        self._keys: dict[Pattern, tuple[Section, str]] = {}
        for each in sections:
            for key, entry in each.entries():
                pattern = Pattern(each.name, entry, each.treatment(self._recipe))
                self._keys[pattern] = (each, key)
        self.patterns = tuple(self._keys)

    def hits(self, pattern: Pattern, name: str) -> bool:
        found, key = self._keys[pattern]
        try:
            return found.hits(key, name, pattern.text)
        except (ValueError, re.error):
            return False

    def outcome(self, layer: Layer) -> Outcome:
        if not is_engines(self._model, layer.modules[0], self._naming):
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
    read_all = (section(name, each, config.source) for name, each in config.data.items())
    sections = [each for each in read_all if each is not None]
    if not sections:
        raise CannotRead(f"{config.source} has no section that is enabled", "enable one")
    readings = []
    for naming in NAMINGS:
        try:
            readings.append(_Reading(model, naming, sections))
        except Unnamed:
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
