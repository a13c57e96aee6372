"""What lies in a folder of safetensors: every tensor's file, dtype, shape and bytes.

Only headers are read here, so that a folder of any size takes milliseconds, and the first thing
that would make a loader stop is refused. `listing` goes on instead, and says what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fp8scope.checkpoint.header import (
    FETCH_AGAIN,
    HeaderFile,
    Problem,
    ProblemKind,
    TensorEntry,
)
from fp8scope.checkpoint.listing import list_folder
from fp8scope.errors import BadModel

# a loader goes on, though not every loader with the same tensors
_LOADED_ANYWAY: frozenset[ProblemKind] = frozenset(
    {"not-in-index", "duplicate", "two-weights", "stray", "layout"}
)
HEADERS_ARE_ENOUGH = (
    "headers are enough, of every shard: as a download leaves them that was cut off; or give the "
    "model's hub id (org/name), of which nothing else is fetched"
)


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


def read_shapes(folder: Path) -> Inventory:
    """As `read_inventory`, for whom headers are enough: a file may be cut off anywhere behind its
    own, or be longer than it says. Raises BadModel where a tensor's shape is not told.
    """
    listing = list_folder(folder)
    for problem in listing.problems:
        if problem.kind == "trailing" or (problem.kind == "truncated" and problem.tensors):
            continue
        _refuse(folder, _of_shapes(problem, is_empty=not listing.sizes))
    if not listing.tensors:
        raise BadModel(f"{folder}: the safetensors files hold no tensors", FETCH_AGAIN)
    return Inventory(folder, listing.tensors)


def _of_shapes(problem: Problem, *, is_empty: bool) -> Problem:
    """The same, for somebody who needs no weights."""
    if problem.kind == "no-weights" and is_empty:
        what = "no safetensors, and config.json alone does not tell every layer's shape"
        return replace(problem, what=what, remedy=HEADERS_ARE_ENOUGH)
    if problem.kind == "pickles":
        remedy = "convert them, or give a hub id (org/name) that has safetensors"
        return replace(problem, remedy=remedy)
    is_short = problem.kind in {"missing-shard", "truncated"}
    return replace(problem, remedy=HEADERS_ARE_ENOUGH) if is_short else problem


def read_header(path: Path) -> list[TensorEntry]:
    """Every tensor that one safetensors file lists, checked against the file's size.

    Raises BadModel if the header cannot be read or does not fit the file.
    """
    found = HeaderFile(path)
    for problem in found.problems:
        _refuse(path.parent, problem)
    return found.tensors


def _refuse(folder: Path, problem: Problem) -> None:
    if problem.kind not in _LOADED_ANYWAY:
        raise BadModel(f"{folder / problem.file}: {problem.what}", problem.remedy)
