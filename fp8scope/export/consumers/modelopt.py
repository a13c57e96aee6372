"""ModelOpt's quant_cfg: an ordered list of entries, of which the last that matches decides.

Entries name quantizers, not modules: `X.weight_quantizer` and `X.input_quantizer` of a linear X; of
stacked experts `X.gate_up_proj_input_quantizer` and, one for each expert,
`X.gate_up_proj_weight_quantizers.3`, which go by `X.gate_up_proj_weight_quantizer` together. An
entry that matches nothing is passed over without a word.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from typing import Any

import yaml

from fp8scope.core.modules import Model, Module, Treatment
from fp8scope.export.consumer import (
    SAYS,
    CannotExpress,
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
from fp8scope.export.matchers.modelopt_quant_cfg import E4M3, Entry, entries, together, word
from fp8scope.export.refusals import refuse

TENSOR: dict[str, Any] = {"num_bits": E4M3, "axis": None}
# of weights and inputs; those of blocks are made by the engine, as in ModelOpt's own preset
CFGS: dict[Treatment, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "fp8_tensor": (TENSOR, TENSOR),
    "fp8_token": (
        {"num_bits": E4M3, "axis": 0},
        {"num_bits": E4M3, "type": "dynamic", "block_sizes": {-1: None}},
    ),
    "fp8_block": ({"num_bits": E4M3, "block_sizes": {-1: 128, -2: 128}}, None),
}
ALL_OFF = {"quantizer_name": "*", "enable": False}
CACHE = "*[kv]_bmm_quantizer"
LOADED = "{int(k) if k.startswith('-') else k: v for k, v in d.items()}"  # -1 is a string in JSON
NEAREST = "plan fp8_tensor (static input scales), or per-token scales: fp8_token"


def write(model: Model) -> Document:
    """Python, JSON and the recipe of the PTQ example. All is off but what is in FP8, by name."""
    refuse("ModelOpt", model, CFGS, NEAREST)
    listed = list(_written(model))
    config = {"quant_cfg": listed, "algorithm": "max"}
    return Document(
        kind="recipe",
        forms={
            "python": Form(".py", _python(model, listed)),
            "json": Form(".json", json.dumps(config, indent=2) + "\n"),
            "recipe": Form(".yaml", _recipe(model, config)),
        },
        config=config,
        use=(
            "mtq.quantize(model, quant_cfg, forward_loop)  # modelopt.torch.quantization as mtq",
            f"quant_cfg = json.load(open('quant_cfg.json'), object_hook=lambda d: {LOADED})",
            "python hf_ptq.py --pyt_ckpt_path MODEL --recipe recipe.yaml --export_path OUT",
        ),
    )


def _written(model: Model) -> Iterator[dict[str, Any]]:
    yield ALL_OFF
    for layer in transformers_layers.layers(model):
        if (treatment := transformers_layers.wanted(layer)) == "bf16":
            continue
        quantizers = _quantizers(model, layer)
        if quantizers is None:
            what = f"ModelOpt has no quantizers for {layer.name}"
            raise CannotExpress(what, "keep it in BF16")
        weight, inputs = CFGS[treatment]
        yield {"quantizer_name": escape(together(quantizers.weights[0])), "cfg": weight}
        if inputs is not None:
            yield {"quantizer_name": escape(quantizers.input), "cfg": inputs}
    if model.kv_cache == "fp8":
        yield {"quantizer_name": CACHE, "cfg": TENSOR}


def _head(model: Model) -> list[str]:
    head = [
        f"# {SAYS['recipe']}",
        f"# ModelOpt 0.47; names of {model.name}, transformers 5; the first entry disables all",
    ]
    if model.folded:
        head.append("# fold smoothing into the BF16 model first: this does not")
    return head


def _python(model: Model, listed: Iterable[Mapping[str, Any]]) -> str:
    lines = [*_head(model), "quant_cfg = {", '    "quant_cfg": [']
    lines += [f"        {entry!r}," for entry in listed]
    return "\n".join([*lines, "    ],", '    "algorithm": "max",', "}"]) + "\n"


def _recipe(model: Model, config: Mapping[str, Any]) -> str:
    about = f"FP8 of {model.name}, layer by layer, planned by fp8scope"
    recipe = {
        "metadata": {"recipe_type": "ptq", "description": about},
        "quantize": {"algorithm": config["algorithm"], "quant_cfg": _plain(config["quant_cfg"])},
    }
    return "\n".join([*_head(model), yaml.safe_dump(recipe, sort_keys=False, width=1000)])


def _plain(value: Any) -> Any:
    """As recipes spell it; a copy, of which YAML makes no aliases."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return "e4m3" if value == E4M3 else value


@dataclass(frozen=True)
class _Quantizers:
    """Names of a layer's quantizers, and the classes of the modules that hold them."""

    weights: tuple[str, ...]
    input: str
    output: str | None
    parents: frozenset[str]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return (*self.weights, self.input, *((self.output,) if self.output else ()))

    @cached_property
    def aliases(self) -> frozenset[str]:
        return frozenset({*self.names, *map(together, self.names)})


def _quantizers(model: Model, layer: Layer) -> _Quantizers | None:
    """None for a router that is a parameter and a function, which has none."""
    name, first = layer.name, layer.modules[0]
    if layer.kind == "experts" and not _EXPERT.search(name):
        weights = (f"{name}_weight_quantizers.{expert}" for expert in _experts(layer.modules))
        return _Quantizers(tuple(weights), f"{name}_input_quantizer", None, frozenset())
    transposed = transformers_layers.is_transposed(model, first)
    if layer.kind == "linear" and not (
        transposed or transformers_layers.is_linear_class(model, first)
    ):
        return None
    return _linear(name)


def _linear(name: str) -> _Quantizers:
    """Of an nn.Linear, as which ModelOpt takes a Conv1D too."""
    kinds = (f"{name}.{kind}_quantizer" for kind in ("weight", "input", "output"))
    weight, inputs, output = kinds
    return _Quantizers((weight,), inputs, output, frozenset({"nn.Linear"}))


_EXPERT = re.compile(r"\.experts\.(\d+)\.")


def _experts(modules: Iterable[Module]) -> list[int]:
    """Their numbers; 0 for all where the files keep them stacked, and nobody says how many."""
    found = (_EXPERT.search(module.name) for module in modules)
    return sorted({int(number[1]) for number in found if number}) or [0]


def read(config: Config, model: Model, version: str) -> Reading:
    """Raises CannotRead for entries that ModelOpt refuses."""
    return _Quantizing(entries(config.data, config.source), model)


@dataclass(frozen=True)
class _State:
    """Of a quantizer. Until an entry says otherwise it is INT8, and on but for outputs."""

    enable: bool
    cfg: Any = None
    by: str = ""

    @property
    def word(self) -> str:
        return word(self.cfg) if self.enable else "off"


class _Quantizing(Reading):
    def __init__(self, listed: tuple[Entry, ...], model: Model) -> None:
        self._entries = listed
        self._literal: dict[str, list[int]] = defaultdict(list)
        for number, entry in enumerate(listed):
            self._literal[entry.name if entry.is_literal else ""].append(number)
        self.layers = transformers_layers.layers(model)
        self._quantizers = {layer.name: _quantizers(model, layer) for layer in self.layers}
        self._of = {_pattern(entry): entry for entry in listed if self._is_asked(entry)}
        self.patterns = tuple(self._of)

    def hits(self, pattern: Pattern, name: str) -> bool:
        quantizers = self._quantizers.get(name, _linear(name))
        return quantizers is not None and _reaches(self._of[pattern], quantizers)

    def outcome(self, layer: Layer) -> Outcome:
        quantizers = self._quantizers[layer.name]
        if quantizers is None:
            return Outcome("bf16", note="ModelOpt has no quantizers for it")
        states = [self._state(name, quantizers) for name in quantizers.weights]
        weights = {state.word for state in states}
        if len(weights) > 1:
            return Outcome("other", note=f"its experts differ: {' and '.join(sorted(weights))}")
        inputs = self._state(quantizers.input, quantizers).word
        if quantizers.output and self._state(quantizers.output, quantizers).enable:
            return Outcome("other", note="its output is quantized too")
        if states[0].cfg is not None and weights == {inputs} == {"off"}:
            return Outcome("bf16", note=f"“{states[0].by}” comes last, and disables it")
        return _outcome(weights.pop(), inputs)

    def _state(self, name: str, quantizers: _Quantizers) -> _State:
        state = _State(enable=name != quantizers.output)
        globs = (n for n in self._literal[""] if self._entries[n].matches(name))
        literal = {n for each in {name, together(name)} for n in self._literal.get(each, ())}
        for number in sorted({*globs, *literal}):
            entry = self._entries[number]
            if _is_for(entry, name, quantizers):
                cfg = state.cfg if entry.cfg is None else entry.cfg
                state = _State(entry.enable, cfg, entry.name)
        return state

    def _is_asked(self, entry: Entry) -> bool:
        """Whether it asks for something of linears: not of caches, nor of inputs or outputs alone.

        Nor does it where it is a default, which reaches all of them, or one of those of ModelOpt
        that disable what may not be there.
        """
        known = [each for each in self._quantizers.values() if each is not None]
        reached = [each for each in known if _reaches(entry, each)]
        if not reached:
            is_for_others = "bmm" in entry.name or entry.parent not in {None, "nn.Linear"}
            return not is_for_others and entry.name not in STOCK
        if len(reached) == len(known) > 1 and not entry.is_literal:
            return False
        return any(entry.matches(name) for each in reached for name in each.weights)


def _reaches(entry: Entry, quantizers: _Quantizers) -> bool:
    if entry.is_literal and entry.name not in quantizers.aliases:
        return False
    names = quantizers.names
    return any(entry.matches(name) and _is_for(entry, name, quantizers) for name in names)


def _is_for(entry: Entry, name: str, quantizers: _Quantizers) -> bool:
    return entry.parent is None or entry.parent in quantizers.parents


def _pattern(entry: Entry) -> Pattern:
    return Pattern("quant_cfg", entry.name, _says(entry))


def _says(entry: Entry) -> Treatment:
    """What an entry asks for, seen by itself."""
    made = word(entry.cfg) if entry.enable else "off"
    asked: dict[str, Treatment] = {"off": "bf16", "tensor": "fp8_tensor", "block": "fp8_block"}
    asked |= {"channel": "fp8_token", "token": "fp8_token", "block of inputs": "fp8_block"}
    return asked.get(made, "other")


_PAIRS: dict[tuple[str, str], Treatment] = {
    ("off", "off"): "bf16",
    ("tensor", "tensor"): "fp8_tensor",
    ("tensor", "tensor, dynamic"): "fp8_tensor_dynamic",
    ("tensor", "token"): "fp8_tensor_dynamic",
    ("channel", "token"): "fp8_token",
    ("block", "off"): "fp8_block",
    ("block", "block of inputs"): "fp8_block",
}


def _outcome(weight: str, inputs: str) -> Outcome:
    treatment = _PAIRS.get((weight, inputs), "other")
    if treatment == "fp8_tensor_dynamic":
        return Outcome(treatment, note="it is exported as FP8, without an input scale")
    if treatment != "other":
        return Outcome(treatment)
    if inputs == "off":
        return Outcome("other", note=f"weights alone are quantized ({weight})")
    if weight == "off":
        return Outcome("other", note=f"inputs alone are quantized ({inputs})")
    return Outcome("other", note=f"weights: {weight}; inputs: {inputs}")


# what presets of ModelOpt disable, there or not
STOCK = {
    "*block_sparse_moe.gate*", "*linear_attn.conv1d*", "*self_attention.conv1d*",
    "*linear_attn.in_proj_a*", "*linear_attn.in_proj_b*", "*lm_head*", "*mixer.conv1d*",
    "*mlp.gate.*", "*mlp.shared_expert_gate.*", "*output_layer*", "*proj_out.*", "*router*",
    "mtp.*", "output.*", "*embed_vision*", "*vision_tower*", "*visual*", "*vision_model*",
    "*multi_modal_projector*",
}  # fmt: skip

CONSUMER = Consumer(
    name="modelopt",
    about="recipe of its quantize and its PTQ example",
    write=write,
    reads={"modelopt": read},
    rules={
        "modelopt": "globs over names of quantizers (….down_proj.weight_quantizer), the last that"
        " matches decides",
    },
    versions=("0.47.0",),
)
