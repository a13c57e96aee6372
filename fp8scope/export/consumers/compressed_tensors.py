"""compressed-tensors: `quantization_config` of a checkpoint, which engines and transformers read.

What is written names what lies in the files, as engines take it. What is read here is what the
library itself does when transformers loads a checkpoint with it: names are those of transformers'
modules, nothing is fused, and only an nn.Linear is ever quantized. Stacked experts are none:
transformers multiplies those that have scales with them, whatever the lists say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fp8scope.checkpoint.linears import FUSED, LETTERS
from fp8scope.checkpoint.schemes import SCHEMES
from fp8scope.core.modules import Model, Module
from fp8scope.export.consumer import (
    SAYS,
    Config,
    Consumer,
    Document,
    Form,
    Layer,
    Outcome,
    Pattern,
    Reading,
)
from fp8scope.export.matchers import compressed_targets, transformers_layers
from fp8scope.export.refusals import refuse

CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
BLOCK = 128
NEWER = ("MXFP4XFP8", "MXFP6A16", "MXFP6A8")  # presets since 0.20


def write(model: Model) -> Document:
    """A group of exact targets for each treatment, and all else ignored by name."""
    refuse("compressed-tensors", model, SCHEMES, "plan FP8 per tensor, per token or per block")
    groups = [
        {
            "targets": _listed(model.in_treatment(treatment)),
            **arguments,
            "output_activations": None,
        }
        for treatment, arguments in SCHEMES.items()
        if model.in_treatment(treatment)
    ]
    folded = "; smoothing is folded into those weights" if model.folded else ""
    config = {
        "fp8scope": f"{SAYS['metadata']}{folded}",
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {f"group_{number}": found for number, found in enumerate(groups)},
        "ignore": _listed([m for m in model.modules if m.wanted in {None, "bf16"}]),
        "kv_cache_scheme": CACHE if model.kv_cache == "fp8" else None,
        "global_compression_ratio": None,
    }
    return Document(
        kind="metadata",
        forms={"json": Form(".json", json.dumps(config, indent=2) + "\n")},
        config=config,
        use=('"quantization_config" in config.json of the checkpoint',),
    )


def _listed(modules: Sequence[Module]) -> list[str]:
    """Every name in the files and, after them, those that SGLang alone compares with."""
    own = [module.name for module in modules]
    return [*own, *dict.fromkeys(name for module in modules for name in _aliases(module))]


def _aliases(module: Module) -> Iterator[str]:
    """Of a shard the fused layer's name, and of experts that have letters the usual one.

    Most classes of SGLang do not say what they fuse, and it looks for `…experts.0.gate_proj`.
    """
    parent, _, last = module.name.rpartition(".")
    if module.kind == "linear" and last in FUSED:
        yield f"{parent}.{FUSED[last]}_proj"
    if module.kind == "expert" and last in LETTERS and parent.endswith(".experts.0"):
        yield f"{parent}.{LETTERS[last]}"


def read(config: Config, model: Model, version: str) -> Reading:
    """Raises CannotRead for what the library's own parser refuses."""
    return _Loading(config, model)


class _Loading(Reading):
    def __init__(self, config: Config, model: Model) -> None:
        self._targets = _parsed(config)
        self._model = model
        self.layers = tuple(map(_with_files, transformers_layers.layers(model)))
        self._layers = {layer.name: layer for layer in self.layers}
        modules = {layer.name: self._classes(layer.name) for layer in self.layers}
        self._targets.check(modules, config.source)
        self.patterns = tuple(self._targets.patterns())

    def hits(self, pattern: Pattern, name: str) -> bool:
        return compressed_targets.hits(pattern.text, name, self._classes(name))

    def outcome(self, layer: Layer) -> Outcome:
        if layer.kind == "experts":
            return self._experts(layer)
        treatment = self._targets.treatment(layer.name, self._classes(layer.name))
        if treatment is None:
            return Outcome("bf16")
        if not transformers_layers.is_linear_class(self._model, layer.modules[0]):
            return Outcome("bf16", note="it is no nn.Linear, and others are not quantized")
        return Outcome(treatment)

    def _experts(self, layer: Layer) -> Outcome:
        """Stored as is wanted of them, or as the lists mean them, who name what lies in the files.

        Their scales are not spread over blocks.
        """
        first = layer.modules[0]
        meant = self._targets.treatment(first.name, compressed_targets.LINEAR)
        treatment = first.wanted or meant or "bf16"
        if treatment == "fp8_block" and max(first.out_features, first.in_features) > BLOCK:
            return Outcome(None, error="transformers cannot load stacked experts with block scales")
        return Outcome(treatment, note="experts are loaded by their scales, not by these lists")

    def _classes(self, name: str) -> tuple[str, ...]:
        layer = self._layers.get(name)
        if layer is None or transformers_layers.is_linear_class(self._model, layer.modules[0]):
            return compressed_targets.LINEAR
        return compressed_targets.OTHER


def _parsed(config: Config) -> compressed_targets.Targets:
    asks = tuple(compressed_targets.groups(config.data.get("config_groups"), config.source, NEWER))
    ignore = compressed_targets.names(config.data.get("ignore"), "ignore", config.source)
    return compressed_targets.Targets(asks, ignore)


def _with_files(layer: Layer) -> Layer:
    """The files' names as well where they are others, and engines': lists name them for those."""
    files = [module.name for module in layer.modules if module.name != layer.name]
    aliases = dict.fromkeys(name for module in layer.modules for name in _aliases(module))
    return replace(layer, shards=(*files, *aliases))


CONSUMER = Consumer(
    name="compressed-tensors",
    about="metadata of a checkpoint that vLLM, SGLang and transformers load",
    write=write,
    reads={"compressed-tensors": read},
    rules={
        "compressed-tensors": "exact names, or re: from the start of a name, or a class such as"
        " Linear; no globs, no parts",
    },
    versions=("0.20.0",),
)
