"""A linear as it lies in the files: its weight, the scales beside it, and what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fp8scope.checkpoint.entries import Form
from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.inventory import Inventory
from fp8scope.checkpoint.linears import (
    FLOAT8,
    FUSED,
    LETTERS,
    PLAIN,
    Granularity,
    fits,
    linears,
    scale_of,
)
from fp8scope.checkpoint.listing import Listing
from fp8scope.core.modules import Module

FLOATS8 = {FLOAT8, "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
BYTES = {"U8", "I8"}
_GRANULARITIES: tuple[Granularity, ...] = ("tensor", "channel", "block")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """A linear with its weight and the scales beside it. `said`: the granularity that the metadata
    gives it, where the shapes fit: [1, 1] may be a tensor's scale or that of one block.
    """

    module: Module
    weight: TensorEntry
    scale: TensorEntry | None
    input_scale: TensorEntry | None
    said: Granularity | None = None

    @property
    def name(self) -> str:
        """In the files, without `.weight`."""
        return self.module.name

    @property
    def is_fp8(self) -> bool:
        """Whether the codes are E4M3 as engines read them."""
        return self.weight.dtype == FLOAT8

    @property
    def is_plain(self) -> bool:
        """Whether the weight is in BF16, F16 or longer."""
        return self.weight.dtype in PLAIN

    @property
    def is_bare(self) -> bool:
        """Whether it is codes of E4M3 without the scale that gives them a meaning."""
        return self.is_fp8 and self.scale is None

    @property
    def is_stacked(self) -> bool:
        """Whether it is all experts of a layer, [experts, out, in]."""
        return len(self.weight.shape) == 3

    @property
    def granularity(self) -> Granularity | None:
        """What the weight's scale is for by its shape; None for none, or of another shape."""
        return self.said or next((each for each in _GRANULARITIES if self.fits(each)), None)

    def fits(self, granularity: Granularity, block: tuple[int, int] = (128, 128)) -> bool:
        """Whether the weight's scale may be one per this."""
        if self.scale is None:
            return False
        return fits(self.scale.shape, self.weight.shape, granularity, block)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that lists may mean it by: its own, transformers', that of the fused layer, and of
        experts that have letters the usual one.
        """
        parent, _, last = self.name.rpartition(".")
        other = f"{FUSED[last]}_proj" if last in FUSED and parent else ""
        if self.module.kind == "expert":
            other = LETTERS.get(last, other)
        names = (self.name, self.module.runtime, *((f"{parent}.{other}",) if other else ()))
        return tuple(dict.fromkeys(names))


def stored_linears(listing: Listing, config: Mapping[str, Any]) -> tuple[Stored, ...]:
    """The linears of a listing with their scales; an output layer that is tied has no weight."""
    tensors = {tensor.name: tensor for tensor in listing.tensors}
    found = []
    for module in linears(Inventory(listing.folder, listing.tensors), config):
        ends = ("", ".weight", ".weight_packed", ".qweight")
        names = (f"{module.name}{end}" for end in ends)
        weight = next((tensors[name] for name in names if name in tensors), None)
        if weight is not None:
            scale = scale_of(weight.name, "weight", tensors)
            found.append(Stored(module, weight, scale, scale_of(weight.name, "input", tensors)))
    return tuple(found)


def shapes_of(
    granularity: Granularity, form: Form, weight: Shape, block: tuple[int, int]
) -> tuple[Shape, ...]:
    """The shapes of a scale that loaders of metadata of this form make room for, beside a weight
    [out, in]: vLLM asserts them, and compressed-tensors and transformers refuse others too.
    """
    rows, columns = weight
    if granularity == "tensor":
        return (), (1,)
    is_modelopt = form == "modelopt"
    if granularity == "channel":
        return ((rows,) if is_modelopt else (rows, 1),)
    down, across = -(-rows // block[0]), -(-columns // block[1])
    return ((down, 1, across, 1) if is_modelopt else (down, across),)
