"""Where a runtime parameter lies in the safetensors files: the name of its tensor there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key


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
        if not isinstance(self.model, PreTrainedModel):
            return {}
        transforms = get_model_conversion_mapping(self.model)
        renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
        converters = [t for t in transforms if isinstance(t, WeightConverter)]
        found: dict[str, str] = {}
        for name in self.shapes:
            runtime, converted = rename_source_key(name, renamings, converters)
            if converted is None:
                for spelling in self._spellings(runtime):
                    found.setdefault(spelling, name)
        return found
