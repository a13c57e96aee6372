"""What a build needs, said before anything is loaded."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from fp8scope.artefacts.plan import Plan
from fp8scope.checkpoint.header import BITS
from fp8scope.checkpoint.inventory import Inventory
from fp8scope.checkpoint.planned import planned_model
from fp8scope.errors import CannotWrite, Missing
from fp8scope.runtime.memory import available_bytes

LIBRARIES = 800_000_000
"""torch, transformers and ModelOpt themselves."""


@dataclass(frozen=True)
class Needs:
    """Bytes: of memory at the peak, and of the checkpoint on disk."""

    memory: int
    disk: int


def needs(plan: Plan, inventory: Inventory, dtype: torch.dtype, shard_bytes: int | None) -> Needs:
    """Of building `plan` from the files of `inventory` with the model in `dtype`.

    The model is held whole; while a shard is written, it is held twice, and without `shard_bytes`
    all that is written: ModelOpt makes it all before it writes. What is quantized takes its place,
    a linear at a time.
    """
    held = {t.name: math.prod(t.shape) * _itemsize(t.dtype, dtype) for t in inventory.tensors}
    model = sum(held.values())
    largest = max(held.values(), default=0)
    quantized = sum(
        module.out_features * module.in_features
        for module in planned_model(plan).modules
        if module.wanted != "bf16"
    )
    disk = model - quantized * (dtype.itemsize - 1)
    # float32 working copies of the largest tensor: folding, and rounding
    peak = model + max(2 * largest * 4 // dtype.itemsize, min(shard_bytes or disk, disk))
    return Needs(peak + LIBRARIES, disk)


def _itemsize(stored: str, dtype: torch.dtype) -> int:
    """Numbers are taken to the model's dtype when they are loaded."""
    if stored.startswith(("F", "BF")):
        return dtype.itemsize
    return max(1, BITS.get(stored, 8) // 8)


def check_needs(found: Needs, output: Path, device: torch.device) -> None:
    """Raise CannotWrite where the disk, Missing where the memory will not do."""
    free = shutil.disk_usage(output.resolve().parent).free
    if free < found.disk:
        where = output.resolve().parent
        what = f"the build takes {size(found.disk)} in {where}, {size(free)} are free"
        raise CannotWrite(what, "make room, or give another -o")
    left = available_bytes(device)
    if left is not None and left < found.memory:
        what = f"the build needs about {size(found.memory)} of memory, {size(left)} are free"
        raise Missing(what, "build on a larger machine: no GPU is needed")


def size(count: int) -> str:
    """`8.2 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
