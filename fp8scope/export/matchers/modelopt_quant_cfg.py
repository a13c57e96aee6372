"""Entries of ModelOpt's quant_cfg, in any of the ways in which it takes them.

Today an ordered list; it still takes the mapping of patterns that it had before, a list of such
mappings of one key, and `nn.` classes that hold patterns of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from typing import Any

from fp8scope.export.consumer import CannotRead

PARENTS = {
    f"nn.{name}"
    for name in (
        "LeakyReLU", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Conv1d", "Conv2d", "Conv3d",
        "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Embedding", "InstanceNorm1d",
        "InstanceNorm2d", "InstanceNorm3d", "LayerNorm", "Linear", "MaxPool1d", "MaxPool2d",
        "MaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d", "AdaptiveAvgPool1d",
        "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "RNN", "LSTM", "GRU",
    )
} | {"Conv1D", "HFColumnParallelLinear", "HFRowParallelLinear"}  # fmt: skip
ATTRIBUTES = {
    "enable", "num_bits", "effective_bits", "axis", "fake_quant", "unsigned", "narrow_range",
    "learn_amax", "type", "block_sizes", "bias", "trt_high_precision_dtype", "calibrator", "rotate",
    "pass_through_bwd", "backend", "backend_extra_args", "use_constant_amax", "constant_amax",
}  # fmt: skip
E4M3 = (4, 3)
_BLOCKS: dict[tuple[tuple[tuple[str, int | None], ...], bool], str] = {
    ((("-1", None),), True): "token",
    ((("-1", 128), ("-2", 128)), False): "block",
    ((("-1", 128),), True): "block of inputs",
}
_EXMY = re.compile(r"[Ee](\d+)[Mm](\d+)")
# one of a stack's quantizers, which also goes by the name of all of them
_OF_STACK = re.compile(r"(weight_quantizer|input_quantizer)s?\.\d+(?=$|\.)")


@dataclass(frozen=True, eq=False)
class Entry:
    """One of the list: what the quantizers that `name` matches are set to, None for as they are."""

    name: str
    cfg: Any
    enable: bool
    parent: str | None

    @cached_property
    def is_literal(self) -> bool:
        """Whether it is no glob, and so matches one name alone."""
        return not set(self.name) & set("*?[")

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        return re.compile(translate(self.name))

    def matches(self, quantizer: str) -> bool:
        """Whether it matches a quantizer by the name of its own, or that of its stack."""
        if self.is_literal:
            return self.name in {quantizer, together(quantizer)}
        return any(self._expression.match(name) for name in {quantizer, together(quantizer)})


def together(quantizer: str) -> str:
    """`…_weight_quantizer` of `…_weight_quantizers.3`; of others their own name."""
    return _OF_STACK.sub(r"\1", quantizer)


def entries(data: Any, source: str) -> tuple[Entry, ...]:
    """Of a config (`quant_cfg` and `algorithm`) or a recipe. Raises CannotRead."""
    if "quantize" in data:
        data = _with_formats(data["quantize"])
    listed = data.get("quant_cfg") if isinstance(data, Mapping) else None
    if isinstance(listed, Mapping):
        listed = [{key: value} for key, value in listed.items()]
    if not isinstance(listed, list | tuple):
        raise CannotRead(f"{source}: `quant_cfg` is no list of entries", "see ModelOpt's docs")
    found = [
        _entry(each, f"{source}: quant_cfg[{number}]")
        for number, raw in enumerate(listed)
        for each in _expanded(raw, f"{source}: quant_cfg[{number}]")
    ]
    return tuple(found)


def _with_formats(data: Any) -> Any:
    """With (4, 3) for `e4m3`, as recipes spell it."""
    if isinstance(data, Mapping):
        return {
            key: _format(value) if key in {"num_bits", "scale_bits"} else _with_formats(value)
            for key, value in data.items()
        }
    return [_with_formats(each) for each in data] if isinstance(data, list) else data


def _format(value: Any) -> Any:
    found = _EXMY.fullmatch(value) if isinstance(value, str) else None
    return tuple(map(int, found.groups())) if found else value


def _expanded(raw: Any, where: str) -> Iterator[Mapping[str, Any]]:
    if isinstance(raw, Mapping) and "quantizer_name" in raw:
        yield raw
    elif isinstance(raw, Mapping) and "$import" in raw:
        what = f"{where} imports {raw['$import']}, which lies in ModelOpt"
        raise CannotRead(what, "resolve it first: modelopt.recipe.load_recipe(FILE).model_dump()")
    elif isinstance(raw, Mapping) and (
        len(raw) == 1 or any(str(key).startswith("nn.") for key in raw)
    ):
        for key, value in raw.items():
            yield from _of_old(str(key), value, where)
    else:
        raise CannotRead(f"{where} is no entry", "it needs `quantizer_name`, and `cfg` or `enable`")


def _of_old(key: str, value: Any, where: str) -> Iterator[dict[str, Any]]:
    if not key.startswith("nn."):
        yield {"quantizer_name": "*" if key == "default" else key, **_instruction(value)}
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield {"quantizer_name": name, "parent_class": key, **_instruction(each)}
    else:
        raise CannotRead(f"{where}: {key} holds no patterns", "give a mapping of them")


def _instruction(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {"cfg": value}
    cfg = {key: each for key, each in value.items() if key != "enable"} or None
    return {"cfg": cfg, "enable": value.get("enable", True)}


def _entry(raw: Mapping[str, Any], where: str) -> Entry:
    if unknown := raw.keys() - {"quantizer_name", "parent_class", "cfg", "enable"}:
        raise CannotRead(f"{where}: there is no {', '.join(sorted(unknown))}", "leave it out")
    if not {"cfg", "enable"} & raw.keys():
        raise CannotRead(f"{where} says neither `cfg` nor `enable`", "ModelOpt refuses it")
    cfg, enable, parent = raw.get("cfg"), bool(raw.get("enable", True)), raw.get("parent_class")
    each = cfg if isinstance(cfg, list | tuple) else [] if cfg is None else [cfg]
    if cfg is not None and not any(each):
        if enable:
            raise CannotRead(f"{where}: `cfg` is empty", "leave it out, or say num_bits")
        cfg = None
    for attributes in each:
        if not isinstance(attributes, Mapping):
            raise CannotRead(f"{where}: `cfg` is no mapping", "such as {num_bits: e4m3}")
        if not isinstance(attributes.get("block_sizes"), Mapping | None):
            raise CannotRead(f"{where}: `block_sizes` is no mapping", "such as {-1: 128, -2: 128}")
        if unknown := attributes.keys() - ATTRIBUTES:
            what = f"{where}: `cfg` has no {', '.join(map(str, unknown))}"
            raise CannotRead(what, "check its spelling")
    if parent is not None and parent not in PARENTS and not str(parent).startswith("hf."):
        raise CannotRead(f"{where}: ModelOpt knows no parent_class {parent}", "such as nn.Linear")
    return Entry(str(raw["quantizer_name"]), cfg, enable, parent)


def word(cfg: Any) -> str:
    """What a quantizer with it makes: FP8 of some granularity, or another format."""
    if not isinstance(cfg, Mapping) or any(cfg.get(key) for key in ("backend", "bias", "rotate")):
        return "another format"
    bits, axis, blocks = cfg.get("num_bits", 8), cfg.get("axis"), cfg.get("block_sizes") or {}
    if not isinstance(bits, list | tuple) or tuple(bits) != E4M3 or "scale_bits" in blocks:
        return "another format"
    dynamic = "dynamic" in (cfg.get("type"), blocks.get("type"))
    sizes = {str(key): size for key, size in blocks.items() if key != "type"}
    if sizes:
        if not all(isinstance(size, int | None) for size in sizes.values()):
            return "another format"
        return _BLOCKS.get((tuple(sorted(sizes.items())), dynamic), "another format")
    if axis is None:
        return "tensor, dynamic" if dynamic else "tensor"
    return "channel" if axis == 0 and not dynamic else "another format"
