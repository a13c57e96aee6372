"""What somebody who wrote a list most likely meant, where no plan and no tensor says it.

A list is read as a person reads it: a name means the module of that name and all that lies in it,
part by part (`layers.1` is no part of `layers.10`), wherever a model's prefixes put it; globs and
regular expressions mean what they match. A list of exclusions outranks one of targets, and a name
outranks a class of modules. Fused layers are meant whole.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from fp8scope.core.modules import Model, Module, Treatment
from fp8scope.export.consumer import Config, Pattern, Reading
from fp8scope.export.matchers.fused_layers import parts

EXCLUSIONS = {"ignore", "exclude_modules", "ignored_layers", "modules_to_not_convert"}
CLASSES = {"linear", "linearbase", "columnparallellinear", "rowparallellinear"}
_PREFIXES = re.compile(r"^((model|language_model|transformer|decoder)\.)+")
_PREFIXES_OF_EXPRESSION = re.compile(
    r"^\^?((model|language_model|transformer|decoder)\\?\.)+(?=\w)"
)
_EXPRESSION = re.compile(r"\\\.|^\^|\$$|\.\*.")  # what no name and no glob has
_BESIDE = re.compile(r"(^|\.)(vision|visual|audio|image|multi_modal|mm_)\w*\.")
_GLOB = re.compile(r"[*?\[]")
# ModelOpt's: `….down_proj.weight_quantizer`, `*self_attn*input_quantizer*`
_QUANTIZER = re.compile(r"((?<=\w)[._]|\*)(weight|input|output)_quantizers?(\.\d+)?\*?$")


def intended(model: Model, reading: Reading, bare: Reading) -> Model:
    """`model` with what the lists of `reading` seem to ask for.

    bare: the same without its lists of exclusions. Modules that no entry means get what most of
    those run in there; heads, routers and what is beside the language model, which consumers treat
    by rules of their own, whatever they run in.
    """
    meant = _meant(model, reading)
    usual: Counter[Treatment] = Counter()
    runs: dict[str, Treatment | None] = {}
    for layer in bare.layers:
        treatment = bare.outcome(layer).treatment
        unnamed = [module for module in layer.modules if module.name not in meant]
        if treatment is not None:
            usual[treatment] += sum(map(_is_usual, unnamed))
    for layer in reading.layers:
        treatment = reading.outcome(layer).treatment
        runs.update((module.name, treatment) for module in layer.modules)
    default = usual.most_common(1)[0][0] if usual.total() else None

    def choose(module: Module) -> Treatment | None:
        if module.name in meant:
            return meant[module.name]
        return default if _is_usual(module) else runs.get(module.name)

    return model.with_wanted(choose)


def _is_usual(module: Module) -> bool:
    return module.kind in {"linear", "expert"} and not _BESIDE.search(module.name)


def without_exclusions(config: Config) -> Config:
    """The config with its lists of exclusions emptied, at whatever depth they stand."""
    return replace(config, data=_emptied(config.data))


def _emptied(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: [] if key in EXCLUSIONS else _emptied(each) for key, each in data.items()}
    return [_emptied(each) for each in data] if isinstance(data, list) else data


def means(text: str, name: str) -> bool:
    """Whether an entry of a list, read as a person does, means the module `name` or what holds it.

    `layers.1` and `layers.1*` mean `model.layers.1.mlp.down_proj`, and nothing in `layers.10`.
    """
    names = {name, _PREFIXES.sub("", name)}
    if text.startswith("re:") or _EXPRESSION.search(text):
        text = text.removeprefix("re:")
        texts = {text, _PREFIXES_OF_EXPRESSION.sub("", text)}
        try:
            return any(re.search(each, name) for each in texts for name in names)
        except re.error:
            pass  # most likely meant as a glob
    if re.search(r"\d\*$", text):  # the star was to reach what lies inside
        text = text[:-1]
    text = _QUANTIZER.sub("", text.removesuffix(".*").removesuffix(".weight"))
    bare = _PREFIXES.sub("", text).strip(".")
    if _GLOB.search(text):
        parents = {parent for each in names for parent in _ancestors(each)}
        return any(fnmatchcase(parent, each) for parent in parents for each in (text, bare))
    return bool(bare) and any(f".{bare}." in f".{each}." for each in names)


def _meant(model: Model, reading: Reading) -> dict[str, Treatment]:
    layers = {module.name: layer.name for layer in reading.layers for module in layer.modules}
    members: dict[str, list[str]] = defaultdict(list)
    for module in model.modules:
        members[module.group].append(module.name)
    named: dict[str, list[Module]] = defaultdict(list)
    for module in model.modules:
        for name in _names(module, layers):
            named[name].append(module)
    found: dict[str, Treatment] = {}
    for pattern in sorted(reading.patterns, key=_rank):
        if pattern.text.lower() in CLASSES:
            meant = _of_class(pattern, model, reading, layers)
        else:
            meant = named.get(pattern.text) or list(_meant_by(pattern.text, named))
        for module in meant:
            found.update(dict.fromkeys(members[module.group], pattern.says))
    return found


def _of_class(
    pattern: Pattern, model: Model, reading: Reading, layers: Mapping[str, str]
) -> list[Module]:
    """What the consumer takes for modules of the class; all linears where it knows no classes."""
    usual = list(filter(_is_usual, model.modules))
    hit = [m for m in usual if reading.hits(pattern, layers.get(m.name, m.name))]
    return hit or usual


def _meant_by(text: str, named: Mapping[str, Sequence[Module]]) -> Iterator[Module]:
    for name, modules in named.items():
        if means(text, name):
            yield from modules


def _names(module: Module, layers: Mapping[str, str]) -> set[str]:
    """In the files, in transformers, and that of the layer that it is run in; of what the files
    have fused, also its parts'.
    """
    return {module.name, module.runtime, layers.get(module.name, module.name), *parts(module.name)}


def _rank(pattern: Pattern) -> tuple[bool, bool]:
    """What comes last wins."""
    return pattern.says == "bf16", pattern.text.lower() not in CLASSES


def _ancestors(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
