"""Whether all of a model is in what was built of it, and what of its files the model has not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from fp8scope.errors import GateFailed

_SCALE = re.compile(r"\.(weight_scale|input_scale|[kv]_scale)$")
_BLOCK = re.compile(r".*?\.\d+(?=\.)")
Shapes = Mapping[str, tuple[int, ...]]


def refuse_incomplete(wanted: Shapes, built: Shapes) -> None:
    """Raise GateFailed, with its name, for a tensor of the model that was not built, or not in its
    shape, and for one that the model has not and that is no scale.
    """
    for name, shape in wanted.items():
        if name not in built:
            raise _failed(f"{name} is not there")
        if tuple(built[name]) != tuple(shape):
            raise _failed(f"{name} is {list(built[name])}, the model's is {list(shape)}")
    for name in built:
        if name not in wanted and not _SCALE.search(name):
            raise _failed(f"{name} is there, which the model has not")


def left_out(source: Iterable[str], built: Iterable[str]) -> list[str]:
    """Numbered blocks of the model's files of which nothing was built, such as those of MTP.

    A prefix that is put on or taken off when a model is saved makes no difference.
    """
    kept = _blocks(built)
    return [block for block in _blocks(source) if not any(_alike(block, each) for each in kept)]


def _blocks(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(found[0] for name in names if (found := _BLOCK.match(name))))


def _alike(one: str, other: str) -> bool:
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")


def _failed(what: str) -> GateFailed:
    return GateFailed(f"what was built is not the model, so it is not kept: {what}", "report this")
