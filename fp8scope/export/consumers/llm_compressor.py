"""llm-compressor's recipe: what its modifiers are told to make of a BF16 model.

Names are transformers' modules, but it takes stacked experts apart before it looks:
`…mlp.experts.3.gate_proj`, `up_proj` and `down_proj`, whatever the files call them. Every
quantizing modifier is applied in turn and, to what it matches, the last one applies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import yaml

from fp8scope.checkpoint.schemes import SCHEMES
from fp8scope.core.modules import Model, Module, Treatment
from fp8scope.export.consumer import (
    SAYS,
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
from fp8scope.export.consumers.compressed_tensors import CACHE
from fp8scope.export.matchers import compressed_targets, transformers_layers
from fp8scope.export.refusals import refuse

_EVERY = {
    "bypass_divisibility_checks", "config_groups", "end", "ended_", "finalized_", "ignore", "index",
    "initialized_", "input_observer", "kv_cache_scheme", "observer", "output_observer",
    "requires_calibration_data", "scheme", "start", "started_", "targets", "update",
    "weight_observer",
}  # fmt: skip
QUANTIZERS = {  # with their arguments
    "QuantizationModifier": _EVERY,
    "GPTQModifier": _EVERY | {"actorder", "batched_quantization", "block_size", "dampening_frac"},
    "AutoRoundModifier": _EVERY
    | {"batch_size", "device_ids", "disable_opt_rtn", "enable_torch_compile", "iters", "lr"},
}
OTHERS = {
    "AWQModifier", "ConstantPruningModifier", "LogarithmicEqualizationModifier",
    "MagnitudePruningModifier", "Modifier", "QuIPModifier", "REAPPruningModifier",
    "SmoothQuantModifier", "SparseGPTModifier", "SpinQuantModifier", "WandaPruningModifier",
}  # fmt: skip
SAID = {"config_groups", "targets", "ignore", "scheme", "kv_cache_scheme"}
PRESET_OF: dict[Treatment, str] = {
    "fp8_tensor": "FP8",
    "fp8_token": "FP8_DYNAMIC",
    "fp8_block": "FP8_BLOCK",
}
_EXPERT = re.compile(r"(?P<experts>.+\.experts)\.(?P<number>\d+)\.(?P<part>[^.]+)$")
_PARTS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


def write(model: Model) -> Document:
    """A recipe of one stage. Raises CannotExpress."""
    refuse("llm-compressor", model, SCHEMES, "plan FP8 per tensor, per token or per block")
    targets = {t: _listed(model, t) for t in SCHEMES if model.in_treatment(t)}
    modifier: dict[str, Any] = {"ignore": _listed(model, "bf16")}
    if targets.keys() <= PRESET_OF.keys():
        modifier["scheme"] = {PRESET_OF[t]: listed for t, listed in targets.items()}
    else:
        modifier["config_groups"] = {
            f"group_{number}": {"targets": listed, **SCHEMES[treatment]}
            for number, (treatment, listed) in enumerate(targets.items())
        }
    if model.kv_cache == "fp8":
        modifier["kv_cache_scheme"] = CACHE
    recipe = {"quant_stage": {"quant_modifiers": {"QuantizationModifier": modifier}}}
    head = [f"# {SAYS['recipe']}", f"# llm-compressor 0.14; names of {model.name}, transformers 5"]
    if model.folded:
        head.append("# fold smoothing into the BF16 model first: this recipe does not")
    body = yaml.safe_dump(recipe, sort_keys=False, width=1000)
    return Document(
        kind="recipe",
        forms={"yaml": Form(".yaml", "\n".join([*head, body]))},
        config=recipe,
        use=tuple(_use(model)),
    )


def _use(model: Model) -> Iterator[str]:
    if any(module.kind == "expert" for module in model.modules):
        yield "with load_quantizable_moe():  # of llmcompressor.modeling.moe.linearize"
        yield "    model = AutoModelForCausalLM.from_pretrained(MODEL)"
    yield "oneshot(model=MODEL, dataset=DATASET, recipe='recipe.yaml')  # of llmcompressor"


def _listed(model: Model, treatment: Treatment) -> list[str]:
    modules = (module for module in model.modules if (module.wanted or "bf16") == treatment)
    return list(dict.fromkeys(target for module in modules for target in _spelled(module)))


def _spelled(module: Module) -> Iterator[str]:
    """Its names. Of experts stacked in the files nobody says how many there are: all, by `re:`."""
    if module.kind != "expert" or _EXPERT.match(module.name):
        yield from _names(module)
        return
    experts, _, stack = module.runtime.rpartition(".")
    for part in _parts(stack):
        yield rf"re:^{re.escape(experts)}\.\d+\.{part}$"


def _names(module: Module) -> tuple[str, ...]:
    """Of the modules that llm-compressor quantizes; the first expert of a stack stands for all."""
    if module.kind != "expert" or _EXPERT.match(module.runtime):
        return (module.runtime,)
    experts, _, stack = module.runtime.rpartition(".")
    if apart := _EXPERT.match(module.name):
        part = _PARTS.get(apart["part"], apart["part"])
        return (f"{experts}.{apart['number']}.{part}",)
    return tuple(f"{experts}.0.{part}" for part in _parts(stack))


def _parts(stack: str) -> tuple[str, ...]:
    return ("gate_proj", "up_proj") if stack == "gate_up_proj" else (stack,)


def read(config: Config, model: Model, version: str) -> Reading:
    """Raises CannotRead for a recipe that llm-compressor refuses to parse."""
    return _Oneshot(config, model)


class _Oneshot(Reading):
    def __init__(self, config: Config, model: Model) -> None:
        self._modifiers = tuple(_modifiers(config))
        self._model = model
        self._layers = {name: module for module in model.modules for name in _names(module)}
        self.layers = tuple(
            Layer(name, (module,), (), _kind(module)) for name, module in self._layers.items()
        )
        modules = {name: self._classes(name) for name in self._layers}
        for _, targets in self._modifiers:
            targets.check(modules, config.source)
        self.patterns = tuple(
            pattern for name, targets in self._modifiers for pattern in targets.patterns(f"{name} ")
        )

    def hits(self, pattern: Pattern, name: str) -> bool:
        return compressed_targets.hits(pattern.text, name, self._classes(name))

    def outcome(self, layer: Layer) -> Outcome:
        if not self._modifiers:
            note = "no stage (`…_stage`) holds a group (`…_modifiers`) with a quantizing modifier"
            return Outcome("bf16", note=note)
        classes = self._classes(layer.name)
        found: Treatment | None = None
        for _, targets in self._modifiers:
            found = targets.treatment(layer.name, classes) or found
        if found is not None and classes != compressed_targets.LINEAR:
            return Outcome("bf16", note="it is no nn.Linear, and others are not quantized")
        return Outcome(found or "bf16")

    def _classes(self, name: str) -> tuple[str, ...]:
        module = self._layers.get(name)
        is_expert = module is not None and module.kind == "expert"
        if module is None or is_expert or transformers_layers.is_linear_class(self._model, module):
            return compressed_targets.LINEAR
        return compressed_targets.OTHER


def _kind(module: Module) -> Literal["linear", "lm_head"]:
    return "lm_head" if module.kind == "lm_head" else "linear"


def _modifiers(config: Config) -> Iterator[tuple[str, compressed_targets.Targets]]:
    """Those that quantize, in order. What is not in a stage and a group is not looked at."""
    if not isinstance(config.data, Mapping):
        raise CannotRead(f"{config.source} is no recipe", "give a mapping of stages")
    for stage, groups in config.data.items():
        if not (str(stage).endswith("_stage") and isinstance(groups, Mapping)):
            continue
        for group, modifiers in groups.items():
            if str(group).endswith("_modifiers") and isinstance(modifiers, Mapping):
                for name, arguments in modifiers.items():
                    if name in QUANTIZERS:
                        yield name, _asked(name, arguments, config.source)
                    elif name not in OTHERS:
                        what = f"{config.source}: there is no modifier {name}"
                        raise CannotRead(what, f"such as {', '.join(QUANTIZERS)}")


def _asked(name: str, arguments: Any, source: str) -> compressed_targets.Targets:
    if not isinstance(arguments, Mapping):
        raise CannotRead(f"{source}: {name} has no arguments", "give it a scheme")
    if unknown := arguments.keys() - QUANTIZERS[name]:
        raise CannotRead(f"{source}: {name} has no {', '.join(sorted(unknown))}", "leave it out")
    scheme, groups = arguments.get("scheme"), arguments.get("config_groups")
    if not SAID & {key for key, value in arguments.items() if value not in (None, [])}:
        raise CannotRead(f"{source}: {name} says nothing", "give it a scheme")
    if scheme is not None and groups is not None:
        raise CannotRead(f"{source}: both `scheme` and `config_groups` are given", "give either")
    targets = _some(arguments.get("targets", ["Linear"]), "targets", source)
    asks: list[tuple[str, Treatment]] = []
    if isinstance(scheme, str):
        treatment = compressed_targets.preset(scheme, source)
        asks = [(target, treatment) for target in targets]
    elif isinstance(scheme, Mapping):
        for key, listed in scheme.items():
            treatment = compressed_targets.preset(str(key), source)
            asks += [(each, treatment) for each in _some(listed, f"scheme.{key}", source)]
    elif groups is not None:
        asks = list(compressed_targets.groups(groups, source))
    ignore = compressed_targets.names(arguments.get("ignore"), "ignore", source)
    return compressed_targets.Targets(
        tuple(asks or ((target, "bf16") for target in targets)), ignore
    )


def _some(value: Any, where: str, source: str) -> tuple[str, ...]:
    """A list of names, or one."""
    return compressed_targets.names([value] if isinstance(value, str) else value, where, source)


CONSUMER = Consumer(
    name="llm-compressor",
    about="recipe of its QuantizationModifier",
    write=write,
    reads={"llm-compressor": read},
    rules={
        "llm-compressor": "exact names of transformers' modules, or re: from the start of a name,"
        " or a class; experts are taken apart as experts.N.gate_proj; only what lies in a"
        " *_stage and its *_modifiers is read",
    },
    versions=("0.14.0.1",),
)
