"""One pass over the bytes of a checkpoint: per tensor a few counts, in constant memory.

Codes of E4M3 without their sign: 0x7f is NaN, 0x7e is 448, 0x7d is 416. Other floats are looked at
as integers too, so that nothing is converted: above the bits of infinity lies NaN.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.inventory import Listing
from fp8scope.checkpoint.linears import FLOAT8
from fp8scope.errors import Interrupted

CHUNK = 1 << 20  # bytes: fits the cache of a core, so that a pass costs little beside the disk
NAN, TOP, NEXT = 0x7F, 0x7E, 0x7D

# the integer that has the width, the bits without the sign, those of infinity
_FLOATS: dict[str, tuple[type[np.unsignedinteger[Any]], int, int]] = {
    "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F16": (np.uint16, 0x7FFF, 0x7C00),
    "F32": (np.uint32, 0x7FFF_FFFF, 0x7F80_0000),
    "F64": (np.uint64, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F8_E5M2": (np.uint8, 0x7F, 0x7C),
}
_SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)


@dataclass
class Counts:
    """Of one tensor, or of what was read of it. `largest` is the highest code of FP8 without its
    sign, NaN left out; elsewhere 1 where anything is not zero.
    """

    values: int = 0
    nan: int = 0
    inf: int = 0
    top: int = 0
    next: int = 0
    largest: int = 0


@dataclass
class ScaleValues:
    """Of one tensor of scales; `lowest` and `highest` are over those that are finite."""

    values: int = 0
    nan: int = 0
    inf: int = 0
    zero: int = 0
    negative: int = 0
    subnormal: int = 0
    ones: int = 0
    lowest: float = math.inf
    highest: float = -math.inf

    @property
    def single(self) -> float | None:
        """The one value, None where there are several or it is not finite."""
        return self.highest if self.values == 1 and self.highest > -math.inf else None


@dataclass(frozen=True)
class Values:
    """What was counted, by the tensors' names; `unread` are those whose bytes are not there."""

    counts: Mapping[str, Counts]
    scales: Mapping[str, ScaleValues]
    unread: tuple[str, ...]


def read_values(
    listing: Listing,
    scales: frozenset[str],
    progress: Callable[[int, int], None],
    stop: Callable[[], bool],
) -> Values:
    """Read every tensor once, file by file. `scales` are the names to be read as scales;
    `progress` is told the bytes read and those in all. Raises Interrupted where `stop()`.
    """
    by_file: dict[str, list[TensorEntry]] = defaultdict(list)
    for tensor in listing.tensors:
        by_file[tensor.file].append(tensor)
    reader = _Reader(sum(tensor.nbytes for tensor in listing.tensors), progress, stop)
    for name, tensors in sorted(by_file.items()):
        whole = [t for t in tensors if t.stop <= listing.sizes.get(name, 0)]
        cut = [t for t in tensors if t.stop > listing.sizes.get(name, 0)]
        reader.unread += [tensor.name for tensor in cut]
        reader.file(listing.folder / name, sorted(whole, key=lambda t: t.start), scales)
    return Values(reader.counts, reader.scales, tuple(reader.unread))


class _Reader:
    def __init__(
        self, total: int, progress: Callable[[int, int], None], stop: Callable[[], bool]
    ) -> None:
        self.total, self.progress, self.stop = total, progress, stop
        self.done = 0
        self.counts: dict[str, Counts] = {}
        self.scales: dict[str, ScaleValues] = {}
        self.unread: list[str] = []
        self._buffer = np.empty(CHUNK, np.uint8)
        self._bare = np.empty(CHUNK, np.uint8)
        self._mask = np.empty(CHUNK, np.bool_)

    def file(self, path: Path, tensors: list[TensorEntry], scales: frozenset[str]) -> None:
        try:
            with path.open("rb", buffering=0) as file:
                for at, tensor in enumerate(tensors):
                    if not self._tensor(file, tensor, tensor.name in scales):
                        self.unread += [t.name for t in tensors[at:]]
                        return
        except OSError:
            read = self.counts.keys() | self.scales.keys()
            self.unread += [t.name for t in tensors if t.name not in read]

    def _tensor(self, file: FileIO, tensor: TensorEntry, is_scale: bool) -> bool:
        count, scale = Counts(), ScaleValues()
        file.seek(tensor.start)
        left = tensor.nbytes
        while left:
            if self.stop():
                raise Interrupted("the examination was stopped", "start it again")
            chunk = self._buffer[: min(left, CHUNK)]
            if not self._fill(file, chunk):
                return False
            if is_scale:
                _count_scales(scale, chunk, tensor.dtype)
            elif tensor.dtype == FLOAT8:
                self._count_codes(count, chunk)
            elif tensor.dtype in _FLOATS:
                _count_floats(count, chunk, tensor.dtype)
            left -= len(chunk)
            self.done += len(chunk)
            self.progress(self.done, self.total)
        if is_scale:
            self.scales[tensor.name] = scale
        else:
            self.counts[tensor.name] = count
        return True

    @staticmethod
    def _fill(file: FileIO, chunk: NDArray[np.uint8]) -> bool:
        view, have = chunk.data, 0
        while have < len(chunk):
            got = file.readinto(view[have:])
            if not got:
                return False
            have += got
        return True

    def _count_codes(self, count: Counts, chunk: NDArray[np.uint8]) -> None:
        bare = np.bitwise_and(chunk, 0x7F, out=self._bare[: len(chunk)])
        count.values += len(chunk)
        highest = int(bare.max())
        if highest < NEXT:
            count.largest = max(count.largest, highest)
            return
        mask = np.greater_equal(bare, NEXT, out=self._mask[: len(chunk)])
        nexts, tops, nans = np.bincount(bare[mask] - NEXT, minlength=3).tolist()
        count.next, count.top, count.nan = count.next + nexts, count.top + tops, count.nan + nans
        if nans and not tops:
            highest = int(bare[bare != NAN].max(initial=0))
        count.largest = max(count.largest, min(highest, TOP))


def _count_floats(count: Counts, chunk: NDArray[np.uint8], dtype: str) -> None:
    integer, magnitude, infinity = _FLOATS[dtype]
    bits = chunk.view(integer) & integer(magnitude)
    count.values += len(bits)
    highest = int(bits.max())
    count.largest = max(count.largest, min(highest, 1))
    if highest >= infinity:
        infinite = int(np.count_nonzero(bits == infinity))
        count.inf += infinite
        count.nan += int(np.count_nonzero(bits >= infinity)) - infinite


def _count_scales(scale: ScaleValues, chunk: NDArray[np.uint8], dtype: str) -> None:
    with np.errstate(invalid="ignore"):  # a NaN that signals
        values = _as_floats(chunk, dtype)
    if values is None:
        return
    finite = values[np.isfinite(values)]
    scale.values += len(values)
    scale.nan += int(np.count_nonzero(np.isnan(values)))
    scale.inf += int(np.count_nonzero(np.isinf(values)))
    scale.zero += int(np.count_nonzero(finite == 0))
    scale.negative += int(np.count_nonzero(finite < 0))
    scale.subnormal += int(np.count_nonzero((finite > 0) & (finite < _SMALLEST_NORMAL)))
    scale.ones += int(np.count_nonzero(finite == 1))
    if len(finite):
        scale.lowest = min(scale.lowest, float(finite.min()))
        scale.highest = max(scale.highest, float(finite.max()))


def _as_floats(chunk: NDArray[np.uint8], dtype: str) -> NDArray[np.float64] | None:
    """The values of a chunk; None for a dtype that is no float."""
    if dtype == "F32":
        return chunk.view(np.float32).astype(np.float64)
    if dtype == "F16":
        return chunk.view(np.float16).astype(np.float64)
    if dtype == "F64":
        return chunk.view(np.float64)
    if dtype == "BF16":
        widened = chunk.view(np.uint16).astype(np.uint32) << np.uint32(16)
        return widened.view(np.float32).astype(np.float64)
    if dtype == "F8_E8M0":
        powers = np.ldexp(1.0, chunk.astype(np.int32) - 127)
        return np.where(chunk == 0xFF, np.nan, powers)
    return None


def code_value(code: int) -> float:
    """What a code of E4M3 without its sign stands for."""
    exponent, mantissa = code >> 3, code & 7
    return math.ldexp(mantissa, -9) if exponent == 0 else math.ldexp(8 + mantissa, exponent - 10)
