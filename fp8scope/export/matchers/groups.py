"""`config_groups` of compressed-tensors, as others wrote them: their shape, for all engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fp8scope.export.consumer import CannotRead, Config

_WORDS = ("strategy", "type")
_NUMBERS = ("num_bits", "group_size")


def groups(config: Config) -> Iterator[tuple[str, Mapping[str, Any], list[str]]]:
    """Every group's name, what it says, and its targets, which are none where it has none.

    Raises CannotRead for what no engine could read: a value that is of another kind.
    """
    found = config.data.get("config_groups") or {}
    if not isinstance(found, Mapping):
        raise _malformed(config, "config_groups", "a mapping of groups")
    _check_word(config, "format", config.data.get("format"))
    for name, group in found.items():
        if not isinstance(group, Mapping):
            raise _malformed(config, f"group {name}", "a mapping")
        targets = group.get("targets") or []
        if not isinstance(targets, list) or not all(isinstance(each, str) for each in targets):
            raise _malformed(config, f"targets of group {name}", "a list of names")
        _check_word(config, f"format of group {name}", group.get("format"))
        for side in ("weights", "input_activations"):
            _check_side(config, f"{side} of group {name}", group.get(side))
        yield str(name), group, targets


def _check_side(config: Config, where: str, arguments: Any) -> None:
    if arguments is None:
        return
    if not isinstance(arguments, Mapping):
        raise _malformed(config, where, "a mapping")
    for key in _WORDS:
        _check_word(config, f"{key} of {where}", arguments.get(key))
    for key in _NUMBERS:
        if not isinstance(arguments.get(key), int | None):
            raise _malformed(config, f"{key} of {where}", "a whole number")
    if not _is_block(arguments.get("block_structure")):
        raise _malformed(config, f"block_structure of {where}", "two whole numbers: [128, 128]")


def _is_block(structure: Any) -> bool:
    if structure is None:
        return True
    if isinstance(structure, str):
        structure = [int(size) if size.isdecimal() else None for size in structure.split("x")]
    if not isinstance(structure, list) or len(structure) != 2:
        return False
    return all(isinstance(size, int) and size > 0 for size in structure)


def _check_word(config: Config, where: str, value: Any) -> None:
    if not isinstance(value, str | None):
        raise _malformed(config, where, "a word")


def _malformed(config: Config, where: str, kind: str) -> CannotRead:
    return CannotRead(f"{where} of {config.source} is not {kind}", "write it as one")
