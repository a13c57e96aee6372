"""Transformers itself: FineGrainedFP8Config and FbgemmFp8Config, each with a list of what to skip.

The list, `modules_to_not_convert`, replaces the usual exceptions, so lm_head is in it. Its entries
are regular expressions and endings (`transformers_layers.skips`). Experts are skipped as a whole,
by the name of their module; a name of one expert, as files have it, skips nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fp8scope.core.modules import WORDS, Model, Module, Treatment
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
from fp8scope.export.consumers import compressed_tensors
from fp8scope.export.matchers import transformers_layers
from fp8scope.export.refusals import refuse_online

LIST = "modules_to_not_convert"
BLOCK = [128, 128]
# FBGEMM cuts inputs off at 1200 unless told otherwise; this is the largest float32
NO_BOUND = 3.4028234663852886e38
CLASSES: dict[Treatment, tuple[str, dict[str, Any]]] = {
    "fp8_block": (
        "FineGrainedFP8Config",
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": BLOCK},
    ),
    "fp8_token": (
        "FbgemmFp8Config",
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": NO_BOUND},
    ),
}


def write(model: Model) -> Document:
    """The list within the config of the one FP8 scheme that is wanted."""
    layers = transformers_layers.module_layers(model)
    wanted = {layer.name: transformers_layers.wanted(layer) for layer in layers}
    treatment = _only(set(wanted.values()) - {"bf16"})
    for layer in layers:
        if wanted[layer.name] != "bf16":
            _check(model, layer, treatment)
    refuse_online("transformers", model)
    kept = [name for name in wanted if wanted[name] == "bf16"]
    converted = [name for name in wanted if wanted[name] != "bf16"]
    name, fields = CLASSES[treatment]
    config = {**fields, LIST: [_entry(each, converted) for each in kept]}
    return Document(
        kind="online config",
        forms={
            "json": Form(".json", json.dumps(config, indent=2) + "\n"),
            "python": Form(".py", _python(model, name, config)),
        },
        config=config,
        use=(
            "AutoModelForCausalLM.from_pretrained(MODEL, dtype='bfloat16', device_map='cuda', "
            "quantization_config=config)",
        ),
    )


def _only(treatments: set[Treatment]) -> Treatment:
    if not treatments:
        return "fp8_block"
    for treatment in sorted(treatments - set(CLASSES)):
        what = f"transformers quantizes per block or per token, not {WORDS[treatment]}"
        remedy = "plan fp8_block; a finished checkpoint that it loads: --to compressed-tensors"
        raise CannotExpress(what, remedy)
    if len(treatments) > 1:
        words = " and ".join(sorted(WORDS[each] for each in treatments))
        what = f"transformers has one FP8 scheme for a model, and {words} are wanted"
        raise CannotExpress(what, "plan one of them, or --to torchao, which has both")
    return treatments.pop()


def _check(model: Model, layer: Layer, treatment: Treatment) -> None:
    first = layer.modules[0]
    if layer.kind == "experts":
        if treatment == "fp8_token":
            what = f"transformers has no experts {WORDS[treatment]} ({layer.name})"
            raise CannotExpress(what, "plan fp8_block, or --to torchao")
    elif not transformers_layers.is_linear_class(model, first):
        what = f"transformers converts nn.Linear only, which {layer.name} is not"
        raise CannotExpress(what, "keep it in BF16")
    sides = {side for m in layer.modules for side in (m.out_features, m.in_features)}
    if treatment == "fp8_block" and any(side % BLOCK[0] for side in sides):
        what = f"transformers leaves {layer.name} in BF16: its sides are no multiples of 128"
        raise CannotExpress(what, "keep it in BF16, or --to torchao per token")


def _entry(name: str, converted: Iterable[str]) -> str:
    """The plain name, unless as an ending or an expression it would skip another, too."""
    if not any(transformers_layers.skips(name, other) for other in converted):
        return name
    return "^" + re.escape(name) + "$"


def _python(model: Model, name: str, config: Mapping[str, Any]) -> str:
    lines = [f"# {SAYS['online config']}", f"# transformers 5, {model.name}"]
    lines += [f"from transformers import {name}", "", f"config = {name}("]
    for key, value in config.items():
        if key not in {"quant_method", LIST}:
            lines.append(f"    {key}={tuple(value) if value is BLOCK else value!r},")
    lines += [f"    {LIST}=[", *(f"        {entry!r}," for entry in config[LIST]), "    ],", ")"]
    return "\n".join(lines) + "\n"


class _Reading(Reading):
    """What is skipped, and what the scheme makes of the rest."""

    def __init__(self, model: Model, where: str, entries: Iterable[str], scheme: _Scheme) -> None:
        self._model = model
        self._scheme = scheme
        self.layers = transformers_layers.module_layers(model)
        self.patterns = tuple(Pattern(where, entry, "bf16") for entry in entries)
        rules = list(_renamings(model.modules)) if scheme.renames else []
        self._entries = {each.text: _renamed(each.text, rules) for each in self.patterns}
        self._broken = transformers_layers.broken(self._entries.values())

    def hits(self, pattern: Pattern, name: str) -> bool:
        try:
            return transformers_layers.skips(self._entries[pattern.text], name)
        except re.error:
            return False

    def outcome(self, layer: Layer) -> Outcome:
        if self._broken:
            return Outcome(None, f"transformers raises {self._broken}")
        if any(self.hits(pattern, layer.name) for pattern in self.patterns):
            return Outcome("bf16")
        return self._scheme.outcome(self._model, layer)


class _Scheme:
    """What a `quantization_config` makes of what it does not skip."""

    def __init__(self, treatment: Treatment, note: str = "", *, fbgemm: bool = False) -> None:
        self.treatment = treatment
        self.note = note
        self.renames = not fbgemm
        self._has_experts = not fbgemm

    def outcome(self, model: Model, layer: Layer) -> Outcome:
        if layer.kind == "experts":
            if self._has_experts:
                return Outcome(self.treatment, note=self.note)
            return Outcome("bf16", note="FBGEMM converts no experts but Llama 4's")
        if not transformers_layers.is_linear_class(model, layer.modules[0]):
            return Outcome("bf16", note="not an nn.Linear: transformers does not convert it")
        return Outcome(self.treatment, note=self.note)


def read(config: Config, model: Model, version: str) -> Reading:
    """`quantization_config`, given at load or found in config.json.

    Raises CannotRead for methods other than `fp8` and `fbgemm_fp8`.
    """
    del version
    data = config.data
    if not isinstance(data, dict):
        raise CannotRead(f"{config.source} is no quantization_config", "an object is expected")
    where, entries = _entries(data, config.source)
    if entries is None:
        where = f"{LIST} (by default)"
        entries = [module.runtime for module in model.modules if module.kind == "lm_head"]
    return _Reading(model, where, entries, _scheme(data, config.source))


def read_unknown(config: Config, model: Model, version: str) -> Reading:
    """ModelOpt's metadata, which transformers warns of once and then ignores."""
    del config, version
    return _Ignored(model)


class _Ignored(Reading):
    def __init__(self, model: Model) -> None:
        self.layers = transformers_layers.module_layers(model)
        self.patterns = ()

    def hits(self, pattern: Pattern, name: str) -> bool:
        return False

    def outcome(self, layer: Layer) -> Outcome:
        if all(module.wanted == "bf16" for module in layer.modules):
            return Outcome("bf16")
        what = (
            "transformers does not know quant_method modelopt: it loads FP8 values without scales"
        )
        return Outcome(None, what)


def _entries(data: Mapping[str, Any], source: str) -> tuple[str, list[str] | None]:
    """`ignored_layers` is another name of the list, for `fp8` where the usual is absent."""
    where = LIST
    entries = data.get(LIST)
    if entries is None and data.get("quant_method") == "fp8" and "ignored_layers" in data:
        where, entries = "ignored_layers", data["ignored_layers"]
    if entries is None or (isinstance(entries, list) and all(isinstance(e, str) for e in entries)):
        return where, entries
    raise CannotRead(f"{source}: {where} is no list of names", "a list of strings, or null")


def _scheme(data: Mapping[str, Any], source: str) -> _Scheme:
    method = data.get("quant_method", "fp8")
    if method == "fbgemm_fp8":
        bound = data.get("activation_scale_ub", 1200.0)
        if not isinstance(bound, int | float):
            what = f"{source}: activation_scale_ub is no number"
            raise CannotRead(what, "the largest input that is not cut off, such as 1200.0")
        note = "" if bound >= NO_BOUND else f"inputs are cut off at ±{bound:g}"
        return _Scheme("fp8_token", note, fbgemm=True)
    if method != "fp8":
        what = f"{source}: quant_method {method!r} has no {LIST} that fp8scope models"
        raise CannotRead(what, "fp8 or fbgemm_fp8; for others --for the library that made it")
    if data.get("dequantize"):
        return _Scheme("bf16", "dequantize is set: everything is loaded in BF16")
    static = str(data.get("activation_scheme", "dynamic")).lower() == "static"
    block = data.get("weight_block_size", BLOCK)
    if block is None:
        return _Scheme("fp8_tensor" if static else "fp8_tensor_dynamic")
    if static or block != BLOCK:
        return _Scheme("other", "blocks of weights with static input scales, or of another size")
    note = "scales are powers of two" if data.get("scale_fmt") == "ue8m0" else ""
    return _Scheme("fp8_block", note)


_Rule = tuple[str, str, bool]  # what stands in the files, what it becomes, whether at the start


def _renamings(modules: Iterable[Module]) -> Iterator[_Rule]:
    """How names of the files become those of modules, as far as this model's modules show it.

    Transformers does this to the list of `fp8`, with its own table of renamings.
    """
    rules: dict[_Rule, None] = {}
    for module in modules:
        there = module.name.split(".")
        here = transformers_layers.module_name(module).split(".")
        if module.kind == "expert":
            there = there[: there.index("experts") + 1] if "experts" in there else here
        if there != here:
            rules[_rule(there, here)] = None
    return iter(rules)


def _rule(there: list[str], here: list[str]) -> _Rule:
    shorter = min(len(there), len(here))
    head = next((i for i in range(shorter) if there[i] != here[i]), shorter)
    ends = range(1, shorter - head + 1)
    tail = next((i - 1 for i in ends if there[-i] != here[-i]), shorter - head)
    old, new = there[head : len(there) - tail], here[head : len(here) - tail]
    if head and old and new:
        return f".{'.'.join(old)}.", f".{'.'.join(new)}.", False
    keep = max(tail - 1, 0)  # one shared part more, so that the prefix is never empty
    return ".".join(there[: len(there) - keep]), ".".join(here[: len(here) - keep]), True


def _renamed(entry: str, rules: Iterable[_Rule]) -> str:
    name = f"{entry}."
    for old, new, at_start in rules:
        if not at_start:
            name = name.replace(old, new, 1)
        elif name.startswith(f"{old}.") and not name.startswith(f"{new}."):
            name = new + name.removeprefix(old)
            break
    return name.removesuffix(".")


CONSUMER = Consumer(
    name="transformers",
    about="transformers' own FP8, per block or per token, with modules_to_not_convert",
    write=write,
    reads={
        "transformers": read,
        "compressed-tensors": compressed_tensors.read,
        "fp8": read,
        "hf-quant-config": read_unknown,
    },
    rules={
        "transformers": "regular expressions from the start of a name (a dot matches anything), or"
        " plain endings",
        "fp8": "regular expressions from the start of a name (a dot matches anything), or plain"
        " endings",
        "compressed-tensors": "exact names, or re: from the start of a name, or a class",
    },
    versions=("5.23.0",),
)
