"""What lies in a folder of safetensors: every tensor's file, dtype, shape and bytes.

A safetensors file is 8 bytes of header length N (little-endian), N bytes of JSON, then the
data. The header gives each tensor's dtype, shape and byte range, counted from the end of the
header. Only headers are read here, so that a folder of any size takes milliseconds.

`list_folder` lists what can be read and says what is wrong with the rest; `read_inventory` refuses
at the first thing that would make a loader stop.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fp8scope.errors import BadModel

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth")
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
FETCH_AGAIN = "fetch the file again"
_OTHER_WEIGHTS = ("consolidated", "adapter")  # of other loaders

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
    "no-weights", "unreadable", "truncated", "header", "offsets", "layout", "trailing", "index",
    "missing-shard", "not-in-shard", "not-in-index", "duplicate", "two-weights", "stray",
]  # fmt: skip
# a loader goes on, though not every loader with the same tensors
_LOADED_ANYWAY: frozenset[ProblemKind] = frozenset(
    {"not-in-index", "duplicate", "two-weights", "stray", "layout"}
)


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


@dataclass(frozen=True)
class Listing:
    """What could be read of a folder, sorted by name, and what is wrong. `sizes`: of each file in
    bytes; a tensor that ends behind that is cut off. `lost`: tensors that should be there by the
    index or a header; `is_blind` where more may be lost that nothing names.
    """

    folder: Path
    tensors: tuple[TensorEntry, ...]
    problems: tuple[Problem, ...]
    sizes: Mapping[str, int]
    lost: frozenset[str]
    is_blind: bool


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
    listing = list_folder(folder)
    for problem in listing.problems:
        _refuse(folder, problem)
    if not listing.tensors:
        raise BadModel(f"{folder}: the safetensors files hold no tensors", FETCH_AGAIN)
    return Inventory(folder, listing.tensors)


def read_header(path: Path) -> list[TensorEntry]:
    """Every tensor that one safetensors file lists, checked against the file's size.

    Raises BadModel if the header cannot be read or does not fit the file.
    """
    found = _File(path)
    for problem in found.problems:
        _refuse(path.parent, problem)
    return found.tensors


def list_folder(folder: Path) -> Listing:
    """The tensors of `model.safetensors`, or of the shards that the index names, as far as they can
    be read; without either, those of all safetensors in the folder. Never raises for what lies
    there.
    """
    problems: list[Problem] = []
    weight_map = _read_weight_map(folder, problems) if (folder / INDEX).is_file() else None
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / SINGLE).is_file():
        names = [SINGLE]
    elif weight_map is not None:
        names = _shards(folder, weight_map, problems)
    else:
        names = there
        if not (folder / INDEX).is_file():
            problems.append(_without_weights(folder, there))
    files = {name: _File(folder / name) for name in names}
    problems += [problem for file in files.values() for problem in file.problems]
    strays = [n for n in there if n not in names and not n.startswith(_OTHER_WEIGHTS)]
    if names == [SINGLE] and weight_map is not None:
        problems += _against_single(weight_map, files[SINGLE])
    elif strays:
        what = f"{_some(strays)} lies beside the weights, and some loaders read every safetensors"
        problems.append(Problem("stray", "", what, "move it away", files=tuple(strays)))
    tensors = _merged(weight_map or {}, files, problems)
    sizes = {name: file.size for name, file in files.items()}
    in_order = tuple(sorted(tensors, key=lambda tensor: tensor.name))
    named = {name for problem in problems if problem.kind == "offsets" for name in problem.tensors}
    if SINGLE not in files:
        named |= set(weight_map or ())
    is_blind = any(_is_broken(file) for file in files.values()) or SINGLE not in files
    return Listing(
        folder,
        in_order,
        tuple(problems),
        sizes,
        frozenset(named - {tensor.name for tensor in tensors}),
        is_blind and (weight_map is None or SINGLE in files),
    )


class _File:
    """One safetensors file: its size in bytes, tensors, and what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.name, self.size = path.name, 0
        self.tensors: list[TensorEntry] = []
        self.problems: list[Problem] = []
        try:
            self.size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if self.size < 8 or length > min(self.size - 8, MAX_HEADER):
                    self.problems.append(_bad_length(path.name, self.size, length))
                    return
                text = file.read(length)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            self.problems.append(_unreadable(path.name, error))
            return
        header = _parse_object(path.name, text, "header", "header", self.problems)
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


def _merged(
    weight_map: Mapping[str, str], files: Mapping[str, _File], problems: list[Problem]
) -> list[TensorEntry]:
    """The tensors of all files; where two hold one name, the index decides."""
    holders: dict[str, dict[str, TensorEntry]] = {}
    for file in files.values():
        for tensor in file.tensors:
            holders.setdefault(tensor.name, {})[file.name] = tensor
    twice = [name for name, held in holders.items() if len(held) > 1]
    if twice:
        both = tuple(dict.fromkeys(file for name in twice for file in holders[name]))
        what = f"{_some(twice)} in more than one of {_some(both)}"
        remedy = "delete the shard that does not belong there, or fetch all from one revision"
        problems.append(Problem("duplicate", "", what, remedy, tuple(twice), both))
    if SINGLE not in files:
        problems += _against_index(weight_map, files, holders)
    return [
        held.get(weight_map.get(n, ""), next(iter(held.values()))) for n, held in holders.items()
    ]


def _against_index(
    weight_map: Mapping[str, str],
    files: Mapping[str, _File],
    holders: Mapping[str, Mapping[str, TensorEntry]],
) -> Iterable[Problem]:
    absent: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        known = file in files and not _is_broken(files[file])
        if known and file not in holders.get(name, {}):
            absent.setdefault(file, []).append(name)
    for file, names in absent.items():
        what = f"says that {_some(names)} is in {file}, which does not hold it"
        remedy = "fetch the index and that shard again, from one revision"
        yield Problem("not-in-shard", INDEX, what, remedy, tuple(names))
    if weight_map and (forgotten := [name for name in holders if name not in weight_map]):
        what = f"does not name {_some(forgotten)}, which the shards hold"
        remedy = "write the index anew: some loaders read only what it names"
        yield Problem("not-in-index", INDEX, what, remedy, tuple(forgotten))


def _is_broken(file: _File) -> bool:
    """Whether tensors of it are not listed, and nothing says which."""
    return not file.tensors and bool(file.problems)


def _against_single(weight_map: Mapping[str, str], single: _File) -> Iterable[Problem]:
    """Some loaders take the single file, others what the index names."""
    own = {tensor.name for tensor in single.tensors}
    others = sorted(set(weight_map.values()) - {SINGLE})
    if not _is_broken(single) and own != set(weight_map):
        apart = tuple(sorted(own ^ set(weight_map)))
        what = f"names other tensors than {SINGLE} holds, such as {_some(list(apart))}"
        remedy = "delete the one that is stale: loaders take one or the other"
        yield Problem("two-weights", INDEX, what, remedy, apart, tuple(others))


def _shards(folder: Path, weight_map: Mapping[str, str], problems: list[Problem]) -> list[str]:
    names = []
    for file in sorted(set(weight_map.values())):
        of = tuple(name for name, where in weight_map.items() if where == file)
        if Path(file).name != file:
            what = f"shard {file!r} is not a plain file name"
            problems.append(Problem("index", INDEX, what, FETCH_AGAIN, of))
        elif not (folder / file).is_file():
            what = f"names the shard {file}, which is missing"
            remedy = "finish the download of the model"
            problems.append(Problem("missing-shard", INDEX, what, remedy, of, (file,)))
        else:
            names.append(file)
    return names


def _read_weight_map(folder: Path, problems: list[Problem]) -> dict[str, str] | None:
    try:
        text = (folder / INDEX).read_bytes()
    except OSError as error:
        problems.append(_unreadable(INDEX, error))
        return None
    data = _parse_object(INDEX, text, "index", "index", problems)
    if data is None:
        return None
    weight_map = data.get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) for file in weight_map.values()
    ):
        problems.append(Problem("index", INDEX, "has no `weight_map` from tensors to files"))
        return None
    return weight_map


def _parse_object(
    file: str, text: bytes, part: str, kind: ProblemKind, problems: list[Problem]
) -> dict[str, Any] | None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):  # ValueError: also what is not UTF-8
        problems.append(Problem(kind, file, f"its {part} is not JSON"))
        return None
    if not isinstance(data, dict):
        problems.append(Problem(kind, file, f"its {part} is not a JSON object"))
        return None
    return data


def _unreadable(file: str, error: Exception) -> Problem:
    why = getattr(error, "strerror", None) or str(error)
    return Problem("unreadable", file, f"cannot be read ({why})", "check the file")


def _bad_length(file: str, size: int, length: int) -> Problem:
    if size >= 8 and length > MAX_HEADER:
        what = f"not a safetensors file (a header of {length:,} bytes is absurd)"
        return Problem("header", file, what, "check that it is the file itself and not a pointer")
    return Problem("truncated", file, f"ends inside its header, at {size:,} bytes")


def _without_weights(folder: Path, others: list[str]) -> Problem:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if others:
        what = f"no {SINGLE} and no {INDEX}, only {_some(others)}"
        return Problem(
            "no-weights", "", what, f"rename the file to {SINGLE}, or fetch the missing index"
        )
    if pickles:
        what = f"no safetensors, only pickles ({_some(pickles)}), which can run code"
        return Problem("no-weights", "", what, "convert them, or allow them with --allow-pickle")
    return Problem("no-weights", "", "no weights", f"put {SINGLE} there")


def _refuse(folder: Path, problem: Problem) -> None:
    if problem.kind not in _LOADED_ANYWAY:
        raise BadModel(f"{folder / problem.file}: {problem.what}", problem.remedy)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
