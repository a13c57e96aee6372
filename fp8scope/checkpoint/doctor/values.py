"""One pass over the bytes of a checkpoint: per tensor a few counts, in constant memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fp8scope.checkpoint.doctor.counting import (
    CodeCounter,
    Counts,
    ScaleValues,
    count_floats,
    count_scales,
)
from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.linears import FLOAT8
from fp8scope.checkpoint.listing import Listing
from fp8scope.errors import Interrupted

CHUNK = 1 << 20  # bytes: fits the cache of a core, so that a pass costs little beside the disk


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
        self._codes = CodeCounter(CHUNK)

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
                count_scales(scale, chunk, tensor.dtype)
            elif tensor.dtype == FLOAT8:
                self._codes.add(count, chunk)
            else:
                count_floats(count, chunk, tensor.dtype)
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
