"""Lists of names in configs that others wrote, and what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8scope.core.modules import Treatment
from fp8scope.export.consumer import CannotRead, Config


def listed(config: Config, section: Mapping[str, Any], where: str) -> list[str]:
    """The entries at `where`, none if it is not there. Raises CannotRead if it is not a list."""
    entries = section.get(where) or []
    if not isinstance(entries, list) or not all(isinstance(each, str) for each in entries):
        raise CannotRead(f"{where} of {config.source} is not a list of names", "write it as one")
    return list(entries)


def algorithm_of(config: Config, section: Mapping[str, Any]) -> str:
    """ModelOpt's `quant_algo`. Raises CannotRead where there is none."""
    said = section.get("quant_algo")
    if not isinstance(said, str) or not said:
        what = f"{config.source} has no quant_algo"
        raise CannotRead(what, "a word such as FP8, at the top or in `quantization`")
    return said


def quantized_layers(config: Config, section: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """ModelOpt's layers of MIXED_PRECISION, each with a `quant_algo`. Raises CannotRead."""
    found = section.get("quantized_layers")
    if not isinstance(found, Mapping) or not found:
        what = f"{config.source} is MIXED_PRECISION without quantized_layers"
        raise CannotRead(what, "name each quantized layer there, with its quant_algo")
    for name, said in found.items():
        if not isinstance(said, Mapping) or not isinstance(said.get("quant_algo"), str):
            raise CannotRead(f"{name} in {config.source} has no quant_algo", "give it one")
        if not isinstance(said.get("group_size", 128), int):
            what = f"group_size of {name} in {config.source} is not a whole number"
            raise CannotRead(what, "write 128, or leave it out")
    return dict(found)


def fp8_treatment(config: Config, engine: str) -> Treatment:
    """What `quant_method: fp8` makes of a linear in a serving engine. Raises CannotRead."""
    inputs, block = config.data.get("activation_scheme"), config.data.get("weight_block_size")
    if inputs not in ("static", "dynamic") or (block is not None and inputs != "dynamic"):
        raise CannotRead(
            f"activation_scheme {inputs!r} of {config.source} is not one that {engine} reads",
            "static or dynamic, and dynamic with weight_block_size",
        )
    if block is None:
        return "fp8_tensor" if inputs == "static" else "fp8_tensor_dynamic"
    return "fp8_block" if block == [128, 128] else "other"
