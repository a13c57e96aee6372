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
from functools import cache, cached_property
from typing import Any

from fp8scope.checkpoint.schemes import scheme, strategy
from fp8scope.core.modules import Treatment
from fp8scope.export.consumer import CannotRead, Pattern

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

    @cached_property
    def _named(self) -> frozenset[str]:
        return frozenset(self.ignore)

    @cached_property
    def _expressions(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        known = ((_compiled(target), target) for target in sorted(self.asks) if _is_re(target))
        return tuple((found, target) for found, target in known if found is not None)

    @cached_property
    def _ignored(self) -> tuple[re.Pattern[str], ...]:
        known = (_compiled(entry) for entry in self.ignore if _is_re(entry))
        return tuple(found for found in known if found is not None)

    def treatment(self, name: str, classes: Iterable[str]) -> Treatment | None:
        """What a module gets, None where it is left alone."""
        if (target := self._first(name, classes)) is None or self._is_ignored(name, classes):
            return None
        return self.asks[target]

    def _first(self, name: str, classes: Iterable[str]) -> str | None:
        """The target that decides."""
        if name in self.asks:
            return name
        for expression, target in self._expressions:
            if expression.match(name):
                return target
        return next((each for each in sorted(classes) if each in self.asks), None)

    def _is_ignored(self, name: str, classes: Iterable[str]) -> bool:
        if not self._named.isdisjoint({name, *classes}):
            return True
        return any(expression.match(name) for expression in self._ignored)

    def check(self, modules: Mapping[str, Iterable[str]], source: str) -> None:
        """Raises CannotRead for an expression that is none where the library would meet it.

        It compares every target with what it quantizes, but an entry of `ignore` only with what no
        earlier one matches. modules: all, by name with their classes.
        """
        _expect_none_broken(self.asks, source)
        if not any(_is_broken(entry) for entry in self.ignore):
            return
        for name, classes in ({"": OTHER} | dict(modules)).items():
            if self._first(name, classes) is not None:
                until = next((n for n, e in enumerate(self.ignore) if hits(e, name, classes)), None)
                _expect_none_broken(self.ignore[:until], source)

    def patterns(self, where: str = "") -> Iterator[Pattern]:
        """Every entry, and what it asks."""
        for target, treatment in self.entries:
            yield Pattern(f"{where}targets", target, treatment)
        for entry in self.ignore:
            yield Pattern(f"{where}ignore", entry, "bf16")


def hits(target: str, name: str, classes: Iterable[str]) -> bool:
    """Whether one target, alone, matches a module; an expression that is none matches nothing."""
    if _is_re(target):
        found = _compiled(target)
        return found is not None and found.match(name) is not None
    return target == name or target in classes


def _is_re(target: str) -> bool:
    return target.startswith("re:")


@cache
def _compiled(target: str) -> re.Pattern[str] | None:
    """None for what is no regular expression."""
    try:
        return re.compile(target.removeprefix("re:"))
    except re.error:
        return None


def _is_broken(target: str) -> bool:
    return _is_re(target) and _compiled(target) is None


def _expect_none_broken(targets: Iterable[str], source: str) -> None:
    for target in targets:
        if _is_broken(target):
            what = f"{source}: “{target}” is no regular expression"
            raise CannotRead(what, "what is `*` in a glob is `.*` in one")


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
        if arguments is not None and not isinstance(arguments.get("group_size"), int | None):
            what = f"{source}: group_size of `{side}` of {where} is no whole number"
            raise CannotRead(what, "write 128, or leave it out")
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
