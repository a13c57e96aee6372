"""Where a runtime parameter lies in the safetensors files: the name of its tensor there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

_LAST_NUMBER = re.compile(r"\.\d+\.(?!.*\.\d+\.)")


@dataclass(frozen=True)
class CheckpointNames:
    """Runtime parameter names looked up among the tensors of the files."""

    model: nn.Module
    shapes: Mapping[str, tuple[int, ...]]

    def find(self, names: Iterable[str], shape: tuple[int, ...]) -> str | None:
        """First tensor of exactly `shape` that the model loads into any of `names`."""
        names = tuple(names)
        plain = [spelling for name in names for spelling in self._spellings(name)]
        found = [name for name in plain if self._holds(name, shape)]
        if not found and self.shapes:
            sources = [self._renamed[name] for name in names if name in self._renamed]
            found = [name for name in sources if self._holds(name, shape)]
        return found[0] if found else None

    def shards(self, name: str, shape: tuple[int, int, int]) -> tuple[str, ...]:
        """Names under which the files hold a stack [experts, rows, columns] expert by expert.

        One per run of rows, in order, {} standing for the expert; () if any shard is missing or
        of another shape.
        """
        experts, rows, columns = shape
        found = self._converted.get(name, ())
        heights = [
            {self.shapes.get(shard.format(expert)) for expert in range(experts)} for shard in found
        ]
        alike = all(len(sizes) == 1 for sizes in heights)
        sizes = [size or () for height in heights for size in height]
        fits = alike and all(size[1:] == (columns,) for size in sizes)
        return tuple(found) if fits and sum(size[0] for size in sizes) == rows else ()

    def _holds(self, name: str, shape: tuple[int, ...]) -> bool:
        return name in self.shapes and tuple(self.shapes[name]) == shape

    def _spellings(self, name: str) -> tuple[str, ...]:
        """The name, and with the base model's prefix stripped or added (GPT-2, OPT)."""
        prefix = getattr(self.model, "base_model_prefix", "")
        if not prefix:
            return (name,)
        stripped = name.removeprefix(f"{prefix}.")
        return (name, stripped) if stripped != name else (name, f"{prefix}.{name}")

    @cached_property
    def _renamed(self) -> dict[str, str]:
        """Runtime name → file name by the renamings that transformers applies on loading.

        Only renamings: tensors that are merged, split or transposed have no single source.
        """
        found: dict[str, str] = {}
        for name, runtime, source in self._loaded:
            if source is None:
                for spelling in self._spellings(runtime):
                    found.setdefault(spelling, name)
        return found

    @cached_property
    def _converted(self) -> dict[str, tuple[str, ...]]:
        """Runtime name → file names of what is merged into it, {} for the last number in each.

        In the order in which they are laid end to end.
        """
        patterns = [p for c in self._transforms(WeightConverter) for p in c.source_patterns]
        found: dict[str, dict[str, int]] = {}
        for name, runtime, source in self._loaded:
            numbered = _LAST_NUMBER.sub(".{}.", name, count=1)
            if source is not None and numbered != name:
                for spelling in self._spellings(runtime):
                    found.setdefault(spelling, {})[numbered] = patterns.index(source)
        return {name: tuple(sorted(of, key=of.__getitem__)) for name, of in found.items()}

    @cached_property
    def _loaded(self) -> list[tuple[str, str, str | None]]:
        """Each file name, the runtime name it is loaded into, and the merging pattern, if any."""
        renamings, converters = map(self._transforms, (WeightRenaming, WeightConverter))
        return [(name, *rename_source_key(name, renamings, converters)) for name in self.shapes]

    def _transforms(self, kind: type[Any]) -> list[Any]:
        if not isinstance(self.model, PreTrainedModel):
            return []
        return [t for t in get_model_conversion_mapping(self.model) if isinstance(t, kind)]
