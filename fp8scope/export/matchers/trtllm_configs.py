"""Configs of checkpoints as TensorRT-LLM's PyTorch backend takes them in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import CannotRead, Config, Pattern, Reading
from fp8scope.export.matchers import trtllm_match as match
from fp8scope.export.matchers.groups import groups
from fp8scope.export.matchers.lists import algorithm_of, listed, quantized_layers
from fp8scope.export.matchers.trtllm_reading import Quantization, TensorRTReading, backend_name

_ALGORITHMS: dict[str, Treatment] = {
    "FP8": "fp8_tensor",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8_token",
    "FP8_BLOCK_SCALES": "fp8_block",
    "fp8_pb_wo": "fp8_block",
}
_OTHERS = re.compile(r"(W\d+A\d+|INT8|NVFP4|MXFP8|NO_QUANT)(_.*)?")


def _algorithm(name: str) -> Treatment | None:
    """None where TensorRT-LLM has no such QuantAlgo: names are spelled its way or not at all."""
    return _ALGORITHMS.get(name) or ("other" if _OTHERS.fullmatch(name) else None)


def read_modelopt(config: Config, model: Model, version: str) -> Reading:
    """ModelOpt's metadata, nested or flat. Raises CannotRead."""
    data = config.data
    nested = data.get("quantization")
    if nested is not None and not isinstance(nested, Mapping):
        raise CannotRead(f"`quantization` of {config.source} is no object", "write it as one")
    if nested is None and version == match.WHOLE:
        refused = f"TensorRT-LLM {version} reads only the form with `quantization` around it"
        return TensorRTReading(model, (), Quantization(None, error=refused), version)
    marked = str(data.get("quant_method", "")).lower().startswith("modelopt")
    if nested is None and not marked and _producer(data) != "modelopt":
        refused = "neither `quantization` nor quant_method or producer says ModelOpt"
        return TensorRTReading(model, (), Quantization(None, error=refused), version)
    section, where = (data, "ignore") if nested is None else (nested, "exclude_modules")
    return _reading(config, model, version, section, where)


def _producer(data: Mapping[str, Any]) -> Any:
    said = data.get("producer")
    return said.get("name") if isinstance(said, Mapping) else None


def read_own(config: Config, model: Model, version: str) -> Reading:
    """Arguments of the LLM API, as if the checkpoint said the same. Raises CannotRead."""
    section = config.data.get("quant_config") or {}
    if not isinstance(section, Mapping):
        raise CannotRead(f"quant_config of {config.source} is no object", "write it as one")
    if section.get("quant_algo") is None:
        return TensorRTReading(model, (), Quantization("bf16"), version)
    return _reading(config, model, version, section, "exclude_modules")


def _reading(
    config: Config, model: Model, version: str, section: Mapping[str, Any], where: str
) -> Reading:
    entries = listed(config, section, where)
    patterns = [Pattern(where, text, "bf16") for text in entries]
    name = algorithm_of(config, section)
    if name != "MIXED_PRECISION":
        treatment = _algorithm(name)
        error = "" if treatment else f"TensorRT-LLM has no algorithm {name}"
        return TensorRTReading(
            model, patterns, Quantization(treatment, entries, None, error), version
        )
    by_key = quantized_layers(config, section)
    known = {key: _algorithm(str(each["quant_algo"])) for key, each in by_key.items()}
    strange = next((key for key, treatment in known.items() if treatment is None), None)
    error = ""
    if version == match.WHOLE:
        error = f"TensorRT-LLM {version} looks for quantized_layers in quant_cfg.json, not here"
    elif strange is not None:
        error = f"TensorRT-LLM has no algorithm {by_key[strange]['quant_algo']} ({strange})"
    says = {key: treatment or "other" for key, treatment in known.items()}
    patterns += [Pattern("quantized_layers", key, treatment) for key, treatment in says.items()]
    return TensorRTReading(model, patterns, Quantization(None, entries, says, error), version)


def read_compressed(config: Config, model: Model, version: str) -> Reading:
    """One group for all, or from 1.3 on several. Raises CannotRead."""
    found = {name: group for name, group, _ in groups(config)}
    if not found:
        raise CannotRead(f"{config.source} has no config_groups", "TensorRT-LLM asks for one")
    first_only = version != match.SUBTREES
    if first_only and "group_0" not in found:
        raise CannotRead(
            f"{config.source} has no group_0", f"TensorRT-LLM {version} reads no other"
        )
    patterns = [Pattern("ignore", text, "bf16") for text in listed(config, config.data, "ignore")]
    if len(found) > 1 and not first_only:
        return _read_groups(config, model, version, patterns)
    group = found["group_0"] if first_only else next(iter(found.values()))
    if version != match.WHOLE:
        more = listed(config, config.data, "modules_to_not_convert")
        patterns += [Pattern("modules_to_not_convert", text, "bf16") for text in more]
    entries = [pattern.text for pattern in patterns]
    treatment, error = _group(group)
    return TensorRTReading(model, patterns, Quantization(treatment, entries, None, error), version)


def _read_groups(config: Config, model: Model, version: str, patterns: list[Pattern]) -> Reading:
    """Several groups are MIXED_PRECISION over the names in the files; exact targets come first."""
    made: dict[str, Treatment] = {}
    error = ""
    for name, group, named in groups(config):
        treatment, refused = _group(group)
        error = error or refused
        for target in named:
            made[target] = treatment or "other"
            patterns.append(Pattern(f"config_groups.{name}.targets", target, made[target]))
    ignored = match.Targets(p.text for p in patterns if p.where == "ignore")
    targets = match.Targets(made)
    names = [module.name for module in model.modules]
    try:
        found = {name: targets.first(name) for name in names}
        idle = targets.idle(names)
        by_key = {
            backend_name(name): made[target]
            for name, target in found.items()
            if target is not None and ignored.first(name) is None
        }
    except re.error as broken:
        raise CannotRead(
            f"a target of {config.source} is no regular expression: {broken}", "correct it"
        ) from None
    if idle:
        error = (
            error or f"target {idle[0]} is no module of the checkpoint, and classes do not count"
        )
    quantization = Quantization(None, (), by_key, error)
    return _Grouped(model, patterns, quantization, version)


class _Grouped(TensorRTReading):
    """Entries are matched against the names in the files, and not as those of `exclude_modules`."""

    def hits(self, pattern: Pattern, name: str) -> bool:
        layer = self.named.get(name)
        of_files = [m.name for m in layer.modules] if layer and layer.name == name else [name]
        try:
            return any(match.is_target(each, pattern.text) for each in of_files)
        except re.error:
            return False


def _group(group: Mapping[str, Any]) -> tuple[Treatment | None, str]:
    """What a group of 8 bits comes to, or the error that it raises."""
    weights, inputs = group.get("weights") or {}, group.get("input_activations") or {}
    pair = (weights.get("strategy"), inputs.get("strategy"))
    if weights.get("num_bits") != 8:
        return ("other", "") if weights.get("num_bits") == 4 else (None, "it has only 8 and 4 bits")
    if pair == ("channel", "token"):
        return "fp8_token", ""
    if pair == ("block", "group") and inputs.get("group_size") == 128:
        return "fp8_block", ""
    return None, (
        f"TensorRT-LLM reads no compressed-tensors of {pair[0]} weights with {pair[1]} inputs, "
        "only channel with token and block with group of 128"
    )
