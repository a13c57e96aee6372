"""compressed-tensors: `quantization_config` of a checkpoint, which engines and transformers read.

What is written names what lies in the files, as engines take it. What is read here is what the
library itself does when transformers loads a checkpoint with it: names are those of transformers'
modules, nothing is fused, and only an nn.Linear is ever quantized.
"""

from __future__ import annotations

import json

from fp8scope.export import runtime
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
from fp8scope.export.consumers import _targets
from fp8scope.export.metadata import SCHEMES
from fp8scope.export.model import Model
from fp8scope.export.refusals import refuse

CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
NEWER = ("MXFP4XFP8", "MXFP6A16", "MXFP6A8")  # presets since 0.20


def write(model: Model) -> Document:
    """A group of exact targets for each treatment, and all else ignored by name."""
    refuse("compressed-tensors", model, SCHEMES, "plan FP8 per tensor, per token or per block")
    groups = [
        {
            "targets": [module.name for module in model.in_treatment(treatment)],
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
        "ignore": [module.name for module in model.modules if module.wanted in {None, "bf16"}],
        "kv_cache_scheme": CACHE if model.kv_cache == "fp8" else None,
        "global_compression_ratio": None,
    }
    return Document(
        kind="metadata",
        forms={"json": Form(".json", json.dumps(config, indent=2) + "\n")},
        config=config,
        use=('"quantization_config" in config.json of the checkpoint',),
    )


def read(config: Config, model: Model, version: str) -> Reading:
    """Raises CannotRead for what the library's own parser refuses."""
    return _Loading(config, model)


class _Loading(Reading):
    def __init__(self, config: Config, model: Model) -> None:
        self._targets = _parsed(config)
        self._model = model
        self.layers = runtime.layers(model)
        self._layers = {layer.name: layer for layer in self.layers}
        modules = {layer.name: self._classes(layer.name) for layer in self.layers}
        _targets.check(self._targets, modules, config.source)
        # engines go by these names, of which transformers has no modules
        files = {module.name for module in model.modules} - set(self._layers)
        patterns = self._targets.patterns()
        self.patterns = tuple(pattern for pattern in patterns if pattern.text not in files)

    def hits(self, pattern: Pattern, name: str) -> bool:
        return _targets.may_hit(pattern.text, name, self._classes(name))

    def outcome(self, layer: Layer) -> Outcome:
        if layer.kind == "experts":
            return Outcome("bf16", note="stacked experts are no nn.Linear, and are not quantized")
        treatment = self._targets.treatment(layer.name, self._classes(layer.name))
        if treatment is None:
            return Outcome("bf16")
        if not runtime.is_linear_class(self._model, layer.modules[0]):
            return Outcome("bf16", note="it is no nn.Linear, and others are not quantized")
        return Outcome(treatment)

    def _classes(self, name: str) -> tuple[str, ...]:
        layer = self._layers.get(name)
        if layer is None or runtime.is_linear_class(self._model, layer.modules[0]):
            return _targets.LINEAR
        return _targets.OTHER


def _parsed(config: Config) -> _targets.Targets:
    asks = tuple(_targets.groups(config.data.get("config_groups"), config.source, NEWER))
    ignore = _targets.names(config.data.get("ignore"), "ignore", config.source)
    return _targets.Targets(asks, ignore)


CONSUMER = Consumer(
    name="compressed-tensors",
    about="metadata of a checkpoint that vLLM, SGLang and transformers load",
    write=write,
    reads={"compressed-tensors": read},
    versions=("0.20.0",),
)
