"""inf and NaN in a model's parameters: found before any forward, and blamed on who made them."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fp8scope.checkpoint.inventory import Inventory
from fp8scope.errors import BadModel


def refuse_nonfinite(model: nn.Module, inventory: Inventory | None = None) -> None:
    """Raise BadModel, naming the parameter, if any parameter of `model` holds inf or NaN.

    With the `inventory` of the files that the model came from, the advice tells a broken
    checkpoint from one whose values do not fit the dtype that was asked for.
    """
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            broken = int((~parameter.isfinite()).sum())
            raise _refusal(name, broken, parameter.dtype, inventory)


def _refusal(name: str, broken: int, dtype: torch.dtype, inventory: Inventory | None) -> BadModel:
    in_file = _broken_tensor(inventory) if inventory else None
    if inventory and in_file is None:
        plain = str(dtype).removeprefix("torch.")
        wider = "bfloat16" if dtype == torch.float16 else "float32"
        return BadModel(
            f"{name} overflows {plain}: {broken} of its values are finite in the checkpoint only",
            f"use --dtype {wider}",
        )
    if in_file:
        what = f"{name} holds {broken} inf or NaN: the checkpoint itself holds them, in {in_file}"
        return BadModel(what, "repair or fetch the checkpoint again; no dtype helps")
    return BadModel(f"{name} holds {broken} inf or NaN", "repair the weights, or use a wider dtype")


def _broken_tensor(inventory: Inventory) -> str | None:
    """The first tensor of the files that holds inf or NaN. This reads the files through."""
    for file in dict.fromkeys(tensor.file for tensor in inventory.tensors):
        opened: Any = safe_open(inventory.folder / file, framework="pt")
        with opened as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a dict
                if not _finite(tensors.get_tensor(name)):
                    return f"{file}: {name}"
    return None


def _finite(tensor: Tensor) -> bool:
    """Whether all values are finite. One pass and no copy: minimum and maximum keep a NaN.

    Codes of one byte, which torch does not compare, are looked at where they are read.
    """
    if not tensor.is_floating_point() or tensor.itemsize == 1 or tensor.numel() == 0:
        return True
    return all(bool(end.isfinite()) for end in torch.aminmax(tensor.detach()))
