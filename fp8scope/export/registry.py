"""Consumers by name: a file in `consumers/` each, imported when asked for, not for their names."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from fp8scope.errors import BadInput
from fp8scope.export import consumers

if TYPE_CHECKING:
    from fp8scope.export.consumer import Consumer

ALIASES = {
    "hf": "transformers",
    "llmcompressor": "llm-compressor",
    "te": "transformer-engine",
    "tensorrt-llm": "trtllm",
}


def names() -> tuple[str, ...]:
    """Names of all consumers, sorted."""
    folder = Path(consumers.__file__).parent
    stems = (path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return tuple(sorted(stem.removesuffix("_").replace("_", "-") for stem in stems))


def consumer(name: str) -> Consumer:
    """Raises BadInput, with the names that there are."""
    name = name.lower()
    name = ALIASES.get(name, name)
    if name not in names():
        raise BadInput(f"there is no consumer {name!r}", f"one of {', '.join(names())}")
    stem = name.replace("-", "_")
    stem = f"{stem}_" if stem == "list" else stem
    found: Consumer = import_module(f"fp8scope.export.consumers.{stem}").CONSUMER
    return found


def all_consumers() -> Iterator[Consumer]:
    """Each of them."""
    return map(consumer, names())
