"""Sections of the debug tool's config (nvdlfw-inspect): which layers each is for, and what it does.

As its ConfigManager matches them. A layer may be in one section only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fp8scope.core.modules import Treatment
from fp8scope.export.consumer import CannotRead

DISABLE = {"DisableQuantizationLayer", "DisableFP8Layer"}
DISABLE_GEMM = {"DisableQuantizationGEMM", "DisableFP8GEMM"}
CHANGE = {"FakeQuant", "PerTensorScaling"}
WATCH = {"LogTensorStats", "LogFp8TensorStats", "LogNvfp4TensorStats", "DumpTensors"}


@dataclass(frozen=True)
class Section:
    """One that is enabled. `where` is its `layers`."""

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


def section(name: str, data: Any, source: str) -> Section | None:
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
    if not isinstance(layers.get("layer_name_regex_pattern"), str | None):
        raise CannotRead(f"{where}: layer_name_regex_pattern is no text", "one expression")
    features = data.get("transformer_engine") or {}
    if not isinstance(features, dict):
        raise CannotRead(f"{where}: transformer_engine is no mapping", "of features")
    for feature, said in features.items():
        if feature not in DISABLE | DISABLE_GEMM | CHANGE | WATCH:
            raise CannotRead(f"{where}: there is no feature {feature}", "mend its name")
        if not isinstance(said, dict | None):
            raise CannotRead(f"{where}: {feature} is no mapping", "{enabled: True}")
    if isinstance(layers.get("layer_numbers"), int):
        raise CannotRead(f"{where}: layer_numbers is a number", "write a list, or all")
    return Section(name, layers, features, acts=bool(set(data) - {"enabled", "layers"}))
