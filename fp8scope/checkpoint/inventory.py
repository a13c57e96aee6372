"""What lies in a folder of safetensors: every tensor's file, dtype, shape and bytes.

A safetensors file is 8 bytes of header length N (little-endian), N bytes of JSON, then the
data. The header gives each tensor's dtype, shape and byte range, counted from the end of the
header. Only headers are read here, so that a folder of any size takes milliseconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

from fp8scope.errors import BadModel

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth")
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


@dataclass(frozen=True)
class Inventory:
    """All tensors of a checkpoint folder, sorted by name."""

    folder: Path
    tensors: tuple[TensorEntry, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by its name in the files."""
        return {tensor.name: tensor.shape for tensor in self.tensors}

    def nbytes(self) -> int:
        """Size of all tensors' data in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors)


def read_inventory(folder: Path) -> Inventory:
    """List the tensors of `model.safetensors`, or of the shards that the index names.

    As when transformers loads the folder, a single file goes before an index.
    Raises BadModel for a folder without such files, and for files that are truncated,
    malformed or not what the index says.
    """
    if not folder.is_dir():
        raise BadModel(f"{folder}: no such folder", "give a folder that holds a model")
    if (folder / SINGLE).is_file():
        tensors = read_header(folder / SINGLE)
    elif (folder / INDEX).is_file():
        tensors = _read_shards(folder)
    else:
        _refuse_without_weights(folder)
    if not tensors:
        raise BadModel(f"{folder}: the safetensors files hold no tensors", FETCH_AGAIN)
    return Inventory(folder, tuple(sorted(tensors, key=lambda tensor: tensor.name)))


def read_header(path: Path) -> list[TensorEntry]:
    """Every tensor that one safetensors file lists, checked against the file's size.

    Raises BadModel if the header cannot be read or does not fit the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                _refuse_header(path, size, length)
            text = file.read(length)
    except OSError as error:
        raise BadModel(f"{path}: cannot be read ({error.strerror})", "check the file") from error
    header = _parse_object(path, text, "header")
    rows = {name: row for name, row in header.items() if name != "__metadata__"}
    tensors = [_tensor(path, name, row, 8 + length) for name, row in rows.items()]
    _check_size(path, size, max((tensor.stop for tensor in tensors), default=8 + length))
    return tensors


def _tensor(path: Path, name: str, row: Any, data_start: int) -> TensorEntry:
    try:
        start, stop = (int(offset) for offset in row["data_offsets"])
        shape = tuple(int(size) for size in row["shape"])
        dtype = str(row["dtype"])
    except (TypeError, KeyError, ValueError) as error:
        what = f"{path}: the header's entry for {name} is malformed"
        raise BadModel(what, FETCH_AGAIN) from error
    # A dtype newer than this table is listed as it is: nothing here depends on its size.
    bits = BITS[dtype] * math.prod(shape) if dtype in BITS else 8 * (stop - start)
    if start < 0 or min(shape, default=0) < 0 or 8 * (stop - start) != bits:
        what = f"{path}: bytes {start}..{stop} cannot hold {name}, {dtype} {list(shape)}"
        raise BadModel(what, FETCH_AGAIN)
    return TensorEntry(name, path.name, dtype, shape, data_start + start, data_start + stop)


def _read_shards(folder: Path) -> list[TensorEntry]:
    """The tensors of all shards; where two shards hold one name, the index decides."""
    weight_map = _read_weight_map(folder / INDEX)
    shards = {file: {t.name: t for t in _read_shard(folder, file)} for file in _files(weight_map)}
    for name, file in weight_map.items():
        if name not in shards[file]:
            what = f"{folder / INDEX}: says that {name} is in {file}, which does not hold it"
            raise BadModel(what, "fetch the index and that shard again, from one revision")
    return [
        tensor
        for file, tensors in shards.items()
        for name, tensor in tensors.items()
        if weight_map.get(name, file) == file
    ]


def _files(weight_map: Mapping[str, str]) -> Iterable[str]:
    return sorted(set(weight_map.values()))


def _read_shard(folder: Path, file: str) -> list[TensorEntry]:
    if Path(file).name != file:
        raise BadModel(f"{folder / INDEX}: shard {file!r} is not a plain file name", FETCH_AGAIN)
    if not (folder / file).is_file():
        what = f"{folder / INDEX}: names the shard {file}, which is missing"
        raise BadModel(what, "finish the download of the model")
    return read_header(folder / file)


def _read_weight_map(path: Path) -> dict[str, str]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadModel(f"{path}: cannot be read ({error.strerror})", "check the file") from error
    weight_map = _parse_object(path, text, "index").get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) for file in weight_map.values()
    ):
        raise BadModel(f"{path}: has no `weight_map` from tensors to files", FETCH_AGAIN)
    return weight_map


def _parse_object(path: Path, text: bytes, part: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also what is not UTF-8
        raise BadModel(f"{path}: its {part} is not JSON", FETCH_AGAIN) from error
    if not isinstance(data, dict):
        raise BadModel(f"{path}: its {part} is not a JSON object", FETCH_AGAIN)
    return data


def _refuse_header(path: Path, size: int, length: int) -> Never:
    if size >= 8 and length > MAX_HEADER:
        what = f"{path}: not a safetensors file (a header of {length:,} bytes is absurd)"
        raise BadModel(what, "check that it is the file itself and not a pointer to it")
    raise BadModel(f"{path}: ends inside its header, at {size:,} bytes", FETCH_AGAIN)


def _check_size(path: Path, size: int, expected: int) -> None:
    if size < expected:
        what = f"{path}: truncated, {size:,} of {expected:,} bytes"
        raise BadModel(what, FETCH_AGAIN)
    if size > expected:
        what = f"{path}: {size - expected:,} bytes longer than its header says"
        raise BadModel(what, FETCH_AGAIN)


def _refuse_without_weights(folder: Path) -> Never:
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if others:
        what = f"{folder}: no {SINGLE} and no {INDEX}, only {_some(others)}"
        raise BadModel(what, f"rename the file to {SINGLE}, or fetch the missing index")
    if pickles:
        what = f"{folder}: no safetensors, only pickles ({_some(pickles)}), which can run code"
        raise BadModel(what, "convert them, or allow them with --allow-pickle")
    raise BadModel(f"{folder}: no weights", f"put {SINGLE} there")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
