"""One safetensors file: the tensors that its header lists, and whatever is wrong with it.

The file is 8 bytes of header length N (little-endian), N bytes of JSON, then the data. The header
gives each tensor's dtype, shape and byte range, counted from the end of the header.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
FETCH_AGAIN = "fetch the file again"

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "BF16": 16, "F16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """One tensor on disk. `start` and `stop` are byte offsets from the start of `file`."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Size of the tensor's data in bytes."""
        return self.stop - self.start


ProblemKind = Literal[
    "no-weights", "pickles", "unreadable", "truncated", "header", "offsets", "layout", "trailing",
    "index", "missing-shard", "not-in-shard", "not-in-index", "duplicate", "two-weights", "stray",
]  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """What is wrong with `file` of a folder, "" for the folder itself. `tensors`: those concerned;
    of duplicates and strays `files` are the others.
    """

    kind: ProblemKind
    file: str
    what: str
    remedy: str = FETCH_AGAIN
    tensors: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class HeaderFile:
    """A file: its size in bytes, its tensors, and what is wrong. Making one never raises."""

    def __init__(self, path: Path) -> None:
        self.name, self.size = path.name, 0
        self.tensors: list[TensorEntry] = []
        self.problems: list[Problem] = []
        try:
            self.size = path.stat().st_size
            with path.open("rb") as file:
                start = file.read(8)
                length = int.from_bytes(start, "little")
                if self.size < 8 or length > min(self.size - 8, MAX_HEADER):
                    self.problems.append(_bad_length(path.name, self.size, length, start))
                    return
                text = file.read(length)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            self.problems.append(unreadable(path.name, error))
            return
        header = parse_object(path.name, text, "header", "header", self.problems)
        for name, row in (header or {}).items():
            if name != "__metadata__":
                self._add(name, row, 8 + length)
        self._check_bytes(8 + length)

    def _add(self, name: str, row: Any, data_start: int) -> None:
        try:
            start, stop = (int(offset) for offset in row["data_offsets"])
            shape = tuple(int(size) for size in row["shape"])
            dtype = str(row["dtype"])
        except (TypeError, KeyError, ValueError, OverflowError):
            what = f"the header's entry for {name} is malformed"
            self.problems.append(Problem("offsets", self.name, what, tensors=(name,)))
            return
        # A dtype newer than this table is listed as it is: nothing here depends on its size.
        bits = BITS[dtype] * math.prod(shape) if dtype in BITS else 8 * (stop - start)
        if start < 0 or min(shape, default=0) < 0 or stop < start or 8 * (stop - start) != bits:
            what = f"bytes {start}..{stop} cannot hold {name}, {dtype} {list(shape)}"
            self.problems.append(Problem("offsets", self.name, what, tensors=(name,)))
            return
        entry = TensorEntry(name, self.name, dtype, shape, data_start + start, data_start + stop)
        self.tensors.append(entry)

    def _check_bytes(self, data_start: int) -> None:
        if self.problems:
            return
        expected = max((tensor.stop for tensor in self.tensors), default=data_start)
        if self.size < expected:
            cut = tuple(tensor.name for tensor in self.tensors if tensor.stop > self.size)
            what = f"truncated, {self.size:,} of {expected:,} bytes"
            self.problems.append(Problem("truncated", self.name, what, tensors=cut))
        if self.size > expected:
            what = f"{self.size - expected:,} bytes longer than its header says"
            self.problems.append(Problem("trailing", self.name, what))
        at = data_start
        for tensor in sorted(self.tensors, key=lambda tensor: (tensor.start, tensor.stop)):
            if tensor.start != at:
                how = "overlap" if tensor.start < at else "leave a hole"
                what = f"the bytes of its tensors {how} before {tensor.name}"
                self.problems.append(Problem("layout", self.name, what, tensors=(tensor.name,)))
                return
            at = tensor.stop


def parse_object(
    file: str, text: bytes, part: str, kind: ProblemKind, problems: list[Problem]
) -> dict[str, Any] | None:
    """The JSON object in `text`; None, and a problem more, where it is none."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):  # ValueError: also what is not UTF-8
        problems.append(Problem(kind, file, f"its {part} is not JSON"))
        return None
    if not isinstance(data, dict):
        problems.append(Problem(kind, file, f"its {part} is not a JSON object"))
        return None
    return data


def unreadable(file: str, error: Exception) -> Problem:
    """A file that the system does not give."""
    why = getattr(error, "strerror", None) or str(error)
    return Problem("unreadable", file, f"cannot be read ({why})", "check the file")


def _bad_length(file: str, size: int, length: int, start: bytes) -> Problem:
    if size >= 8 and length > MAX_HEADER:
        for first, what, remedy in _OTHERS:
            if start.lower().startswith(first):
                return Problem("header", file, f"not a safetensors file but {what}", remedy)
        what = f"not a safetensors file (its first 8 bytes would be a header of {length:,} bytes)"
        return Problem("header", file, what)
    return Problem("truncated", file, f"ends inside its header, at {size:,} bytes")


_OTHERS = (
    (b"version ", "a pointer of Git LFS to one", "git lfs pull, or fetch it with the hub's client"),
    (b"<!doctyp", "a web page", "fetch it with the hub's client: the address gave a page"),
    (b"<html", "a web page", "fetch it with the hub's client: the address gave a page"),
    (
        b"pk\x03\x04",
        "a zip archive, as torch.save writes",
        "convert it: safetensors.torch.save_file",
    ),
    (b"gguf", "llama.cpp's GGUF", "fetch the safetensors of the model"),
)
