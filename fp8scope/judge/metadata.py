"""What a checkpoint's metadata says of its linears, held against what lies in the files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fp8scope.checkpoint.declaration import LINEAR, Declaration
from fp8scope.checkpoint.declared import declare
from fp8scope.core.modules import Module
from fp8scope.errors import BadModel

CONFIG, METADATA = "config.json", "hf_quant_config.json"


@dataclass(frozen=True)
class Denied:
    """A linear that lies in FP8, and of which `file` says that it is not quantized: on its list,
    or by naming it in no target.
    """

    name: str
    file: str
    is_listed: bool


def declarations(folder: Path, config: Mapping[str, Any]) -> tuple[Declaration, ...]:
    """All metadata whose lists are understood, config.json's first. Raises BadModel for a file that
    is not JSON.
    """
    found: list[tuple[str, Any]] = [(CONFIG, config.get("quantization_config"))]
    if (folder / METADATA).is_file():
        try:
            found.append((METADATA, json.loads((folder / METADATA).read_bytes())))
        except (OSError, ValueError) as error:
            raise BadModel(f"{folder / METADATA}: not JSON", "fetch the file again") from error
    read = (declare(data, name) for name, data in found if isinstance(data, dict))
    return tuple(each for each in read if each.is_read)


def not_quantized(modules: Iterable[Module], said: Declaration | None) -> tuple[str, ...] | None:
    """Those that this metadata says are not; None without any."""
    if said is None:
        return None
    return tuple(module.name for module in modules if _is_plain(module, said))


def denied(stored: Iterable[Module], said: Iterable[Declaration]) -> Iterator[Denied]:
    """Linears in FP8 that some metadata says are not quantized: engines load their codes as
    numbers (doctor's `fp8-ignored`).
    """
    in_fp8 = [module for module in stored if (module.wanted or "").startswith("fp8")]
    for each in said:
        for module in in_fp8:
            if _is_plain(module, each):
                names = (module.name, module.runtime)
                yield Denied(module.name, each.file, bool(each.listed.matching(names, LINEAR)))


def _is_plain(module: Module, said: Declaration) -> bool:
    return said.of((module.name, module.runtime)).weights == "bf16"
