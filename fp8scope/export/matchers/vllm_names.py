"""vLLM's names: of its layers, and what its model classes declare about lists.

The declarations are recorded from its wheel (`vllm_models.json`, see `tests/conformance`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

from fp8scope.core.modules import Model
from fp8scope.export.consumer import Layer
from fp8scope.export.matchers.fused_layers import USUAL, fused_layers

Rules = Mapping[str, str | None]


@dataclass(frozen=True)
class Mapper:
    """How a model class renames what lists say: every rule that fits, in order, on what the ones
    before it made. A rule to None drops the entry. `then`, of the class of a text part inside,
    goes over the outcome once more; `inside`, of the class of `model`, over weights only.
    """

    regexes: Rules = field(default_factory=dict)
    substrings: Rules = field(default_factory=dict)
    prefixes: Rules = field(default_factory=dict)
    suffixes: Rules = field(default_factory=dict)
    then: Mapper | None = None
    inside: Mapper | None = None

    def name(self, name: str) -> str | None:
        """The name after renaming, None where it is dropped."""
        found: str | None = self._own(name)
        return found if found is None or self.then is None else self.then.name(found)

    def weight(self, name: str) -> str:
        """The module that a module of the files becomes, as its weight is renamed on loading.

        There the class of a part sees no more than what follows the part's name.
        """
        found = self._own(f"{name}.weight") or f"{name}.weight"
        for part, mapper in (("language_model.", self.then), ("model.", self.inside)):
            if mapper is not None and found.startswith(part):
                rest = found.removeprefix(part)
                found = part + (mapper.name(rest) or rest)
        return found.removesuffix(".weight")

    def _own(self, name: str) -> str | None:
        for expression, new in self.regexes.items():
            if re.search(expression, name):
                if new is None:
                    return None
                name = re.sub(expression, new, name)
        for rules, fits in (
            (self.substrings, str.__contains__),
            (self.prefixes, str.startswith),
        ):
            for old, new in rules.items():
                if fits(name, old):
                    if new is None:
                        return None
                    name = name.replace(old, new, 1)
        for old, new in self.suffixes.items():
            if name.endswith(old):
                if new is None:
                    return None
                name = name.removesuffix(old) + new
        return name


@dataclass(frozen=True)
class Names:
    """What an architecture's class brings: its layers, its fused map, how it renames lists.

    `fused` is what vLLM looks parts up in: a layer may be fused and not be in it. `plain`: layers
    that are built without a quantization config, so that they stay as they are whatever a list
    says. Not `renames`: the class has no mapper, so that lists are not even looked through. Not
    `known`: vLLM has no class of that name whose declarations could be read.
    """

    layers: tuple[Layer, ...]
    fused: Mapping[str, Sequence[str]]
    mapper: Mapper
    known: bool
    plain: frozenset[str] = frozenset()
    renames: bool = True

    def listed(self, entries: Sequence[str]) -> list[str]:
        """Entries of a list as the matcher will see them."""
        renamed = (self.mapper.name(entry) for entry in entries)
        return [name for name in renamed if name is not None]


def names(model: Model) -> Names:
    """An architecture that is not known is taken for one like Llama."""
    known = model.architecture in _classes()
    said = _classes()[model.architecture if known else "LlamaForCausalLM"]
    fused, mapper = _fused(model, said), _mapper(said)
    layers, last = _layers(model, mapper, fused), said.get("plain", ())
    return Names(
        layers=layers,
        fused=fused,
        mapper=mapper,
        known=known,
        plain=frozenset(x.name for x in layers if x.name.rsplit(".", 1)[-1] in last),
        renames=not said.keys().isdisjoint({"mapper", "then", "text"}),
    )


def _mapper(said: Mapping[str, Any]) -> Mapper:
    own, then, inside = (
        Mapper(**said[part]) if said.get(part) else None for part in ("mapper", "then", "inside")
    )
    return replace(own or Mapper(), then=then, inside=inside)


def _fused(model: Model, said: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Of what constructors add, the part that this model's layers make them add."""
    there = {m.name.rsplit(".", 1)[-1] for m in model.modules if m.kind != "expert"}
    usual = USUAL if said.get("text") == "config" else {}
    added = {key: parts for key, parts in said.get("adds", {}).items() if there >= set(parts)}
    return {**usual, **said.get("fused", {}), **added}


def _layers(model: Model, mapper: Mapper, fused: Mapping[str, Sequence[str]]) -> tuple[Layer, ...]:
    renamed: dict[str, str] = {}
    taken: set[str] = set()
    for module in model.modules:
        new = mapper.weight(module.name)
        # rules that make one name of two are for loaders that take them apart again
        renamed[module.name] = module.name if new in taken else new
        taken.add(renamed[module.name])
    widest = sorted({**USUAL, **fused}.items(), key=lambda each: -len(each[1]))
    built = fused_layers(model.modules, renamed.__getitem__, dict(widest))
    return tuple(_named_experts(each) if each.kind == "experts" else each for each in built)


def _named_experts(layer: Layer) -> Layer:
    """Experts are built as `experts`, also where the files have no such level."""
    is_named = "experts" in layer.name.split(".")
    return layer if is_named else replace(layer, name=f"{layer.name}.experts")


@lru_cache(maxsize=1)
def _classes() -> Mapping[str, Any]:
    text = files(__package__).joinpath("vllm_models.json").read_text()
    classes: Mapping[str, Any] = json.loads(text)["classes"]
    return classes
