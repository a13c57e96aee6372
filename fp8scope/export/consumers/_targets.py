"""How compressed-tensors matches names, with which it loads and llm-compressor quantizes.

A target is an exact name, `re:` and a regular expression that matches from the start of the name,
or the exact name of one of the classes that a module has (`Linear`, and `Module` of all). What
`ignore` matches is left alone. Of several targets one decides: exact before `re:`, each in
alphabetical order, and classes last.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fp8scope.export.consumer import CannotRead, Pattern
from fp8scope.export.metadata import scheme, strategy
from fp8scope.export.model import Treatment

LINEAR = ("Linear", "Module")
OTHER = ("Module",)

# preset schemes in FP8; what no preset is, no version takes
PRESETS: dict[str, Treatment] = {
    "UNQUANTIZED": "bf16",
    "FP8": "fp8_tensor",
    "FP8_DYNAMIC": "fp8_token",
    "FP8_BLOCK": "fp8_block",
    **dict.fromkeys(
        (
            "W4A16_ASYM", "W8A8", "INT8", "W4AFP8", "NVFP4A16", "NVFP4", "MXFP4A16", "MXFP4",
            "MXFP8A16", "MXFP8", "W2A4", "W2A8", "W2A16", "W3A4", "W3A8", "W3A16", "W4A4", "W4A8",
            "W4A16", "W5A8", "W5A16", "W6A8", "W6A16", "W7A8", "W7A16", "W8A16",
        ),
        "other",
    ),
}  # fmt: skip
_INPUTS = {"token", "tensor", "group", "tensor_group", "attn_head"}


@dataclass(frozen=True)
class Targets:
    """Targets with what each asks for, in the order of the config, and what is ignored."""

    entries: tuple[tuple[str, Treatment], ...]
    ignore: tuple[str, ...]

    @cached_property
    def asks(self) -> dict[str, Treatment]:
        """What the last entry of a target asks."""
        return dict(self.entries)

    def treatment(self, name: str, classes: Iterable[str]) -> Treatment | None:
        """What a module gets, None where it is left alone. Raises re.error, as the library."""
        classes = tuple(classes)
        if not any(hits(target, name, classes) for target in self.asks):
            return None
        if any(hits(entry, name, classes) for entry in self.ignore):
            return None
        return self.asks[next(self._matched(name, classes))]

    def _matched(self, name: str, classes: tuple[str, ...]) -> Iterator[str]:
        ordered = sorted(self.asks, key=lambda target: ("re:" in target, target))
        yield from (target for target in ordered if hits(target, name, ()))
        yield from (target for target in ordered if target in classes)

    def patterns(self, where: str = "") -> Iterator[Pattern]:
        """Every entry, and what it asks."""
        for target, treatment in self.entries:
            yield Pattern(f"{where}targets", target, treatment)
        for entry in self.ignore:
            yield Pattern(f"{where}ignore", entry, "bf16")


def hits(target: str, name: str, classes: Iterable[str]) -> bool:
    """Whether one target, alone, matches a module. Raises re.error."""
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), name) is not None
    return target == name or target in classes


def check(targets: Targets, modules: Mapping[str, Iterable[str]], source: str) -> None:
    """Goes over all modules, by name with their classes, and over what holds them, as the library.

    Raises CannotRead where it meets an expression that is none. It may never meet it: what an
    earlier entry has matched is not compared with a later one.
    """
    for name, classes in ({"": OTHER} | dict(modules)).items():
        try:
            targets.treatment(name, classes)
        except re.error as error:
            what = f"{source}: “re:{error.pattern!s}” is no regular expression ({error.msg})"
            raise CannotRead(what, "a glob's `*` is `.*` in one") from error


def may_hit(target: str, name: str, classes: Iterable[str]) -> bool:
    """`hits`; an expression that is none hits nothing."""
    try:
        return hits(target, name, classes)
    except re.error:
        return False


def preset(name: str, source: str, newer: Collection[str] = ()) -> Treatment:
    """What a preset scheme makes of a linear; `newer` are more of those, none in FP8.

    Raises CannotRead for one that is not there.
    """
    if name.upper() in newer:
        return "other"
    if (found := PRESETS.get(name.upper())) is None:
        raise CannotRead(
            f"{source}: there is no preset scheme {name}", f"one of {', '.join(PRESETS)}"
        )
    return found


def names(value: Any, where: str, source: str) -> tuple[str, ...]:
    """A list of names. Raises CannotRead."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise CannotRead(f"{source}: `{where}` is no list of names", "give a list of strings")
    return tuple(value)


def groups(found: Any, source: str, newer: Collection[str] = ()) -> Iterator[tuple[str, Treatment]]:
    """Every target of `config_groups` and what it asks. Raises CannotRead where the library would.

    A group is a scheme, or a list of targets under the name of a preset.
    """
    if not isinstance(found, Mapping):
        raise CannotRead(f"{source}: there is no `config_groups`", "give each group its targets")
    for name, each in found.items():
        if isinstance(each, list):
            targets, treatment = each, preset(str(name), source, newer)
        elif isinstance(each, Mapping) and "targets" in each:
            targets, treatment = each["targets"], _asked(each, name, source)
        else:
            raise CannotRead(f"{source}: {name} of `config_groups` has no targets", "name some")
        for target in names(targets, f"{name}.targets", source):
            yield target, treatment


def _asked(found: Mapping[str, Any], where: str, source: str) -> Treatment:
    sides = {}
    for side in ("weights", "input_activations", "output_activations"):
        arguments = found.get(side)
        if arguments is not None and not isinstance(arguments, Mapping):
            raise CannotRead(f"{source}: `{side}` of {where} is no mapping", "mend it")
        if arguments is not None and (problem := _problem(arguments, side)):
            raise CannotRead(f"{source}: `{side}` of {where}: {problem}", "the library refuses it")
        sides[side] = arguments
    if sides["output_activations"] is not None:
        return "other"
    return scheme(sides["weights"], sides["input_activations"])


def _problem(arguments: Mapping[str, Any], side: str) -> str:
    how, dynamic = strategy(arguments), bool(arguments.get("dynamic", False))
    if how == "token" and not dynamic:
        return "scales per token are made at run time: `dynamic: true`"
    if (how == "block") != (arguments.get("block_structure") is not None):
        return "strategy block and `block_structure` go together"
    size = arguments.get("group_size")
    if (how in {"group", "tensor_group"}) != (size is not None and size > 0):
        return "strategy group and a positive `group_size` go together"
    if dynamic and how not in {"token", "tensor", "group", "tensor_group"}:
        return f"strategy {how} cannot be dynamic"
    if side == "input_activations" and how not in _INPUTS:
        return f"inputs have no strategy {how}"
    return ""
