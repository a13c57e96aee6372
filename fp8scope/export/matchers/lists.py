"""Lists of names in configs that others wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8scope.export.consumer import CannotRead, Config


def listed(config: Config, section: Mapping[str, Any], where: str) -> list[str]:
    """The entries at `where`, none if it is not there. Raises CannotRead if it is not a list."""
    entries = section.get(where) or []
    if not isinstance(entries, list) or not all(isinstance(each, str) for each in entries):
        raise CannotRead(f"{where} of {config.source} is not a list of names", "write it as one")
    return list(entries)
