"""What can be read of a folder of safetensors, and what is wrong with the rest; never raises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fp8scope.checkpoint.header import (
    FETCH_AGAIN,
    HeaderFile,
    Problem,
    TensorEntry,
    parse_object,
    unreadable,
)

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth")
_OTHER_WEIGHTS = ("consolidated", "adapter")  # of other loaders, which an index leaves out


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


def list_folder(folder: Path) -> Listing:
    """The tensors of `model.safetensors`, or of the shards that the index names, as far as they can
    be read; without either, those of all safetensors in the folder. Never raises for what lies
    there.
    """
    problems: list[Problem] = []
    weight_map = _read_weight_map(folder, problems) if (folder / INDEX).is_file() else None
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    if SINGLE in there:  # though it be a link to nothing
        names = [SINGLE]
    elif weight_map is not None:
        names = _shards(folder, weight_map, problems)
    else:
        names = there
        if not (folder / INDEX).is_file():
            problems.append(_without_weights(folder, there))
    files = {name: HeaderFile(folder / name) for name in names}
    problems += [problem for file in files.values() for problem in file.problems]
    if names == [SINGLE] and weight_map is not None:
        problems += _against_single(folder, weight_map, files[SINGLE])
    known = {*names, *(weight_map or {}).values()}
    strays = [n for n in there if n not in known]
    if weight_map is not None:
        strays = [n for n in strays if not n.startswith(_OTHER_WEIGHTS)]
    if strays:
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


def _merged(
    weight_map: Mapping[str, str], files: Mapping[str, HeaderFile], problems: list[Problem]
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
    files: Mapping[str, HeaderFile],
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


def _is_broken(file: HeaderFile) -> bool:
    """Whether tensors of it are not listed, and nothing says which."""
    return not file.tensors and bool(file.problems)


def _against_single(
    folder: Path, weight_map: Mapping[str, str], single: HeaderFile
) -> Iterable[Problem]:
    """Transformers takes the single file, vLLM what the index names."""
    own = {tensor.name for tensor in single.tensors}
    others = sorted(set(weight_map.values()) - {SINGLE})
    is_apart = not _is_broken(single) and own != set(weight_map)
    if not (others or is_apart):
        return
    apart = tuple(sorted(own ^ set(weight_map))) if is_apart else ()
    what = f"names other tensors than {SINGLE} holds, such as {_some(apart)}"
    if others:
        lost = [file for file in others if not (folder / file).is_file()]
        what = f"names {_some(others)}" + (" (not all are there)" if lost else "")
        what += f", and {SINGLE} lies beside it"
        what += f" with other tensors, such as {_some(apart)}" if apart else ""
        what += ": transformers loads the single file, vLLM what the index names"
    remedy = "delete the set that is stale, and examine again: here the single file was read"
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
        problems.append(unreadable(INDEX, error))
        return None
    data = parse_object(INDEX, text, "index", "index", problems)
    if data is None:
        return None
    weight_map = data.get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) for file in weight_map.values()
    ):
        problems.append(Problem("index", INDEX, "has no `weight_map` from tensors to files"))
        return None
    return weight_map


def _without_weights(folder: Path, others: list[str]) -> Problem:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if others:
        what = f"no {SINGLE} and no {INDEX}, only {_some(others)}"
        return Problem(
            "no-weights", "", what, f"rename the file to {SINGLE}, or fetch the missing index"
        )
    if pickles:
        what = f"no safetensors, only pickles ({_some(pickles)}), which can run code"
        return Problem("pickles", "", what, "convert them, or allow them with --allow-pickle")
    return Problem("no-weights", "", "no weights", f"put {SINGLE} there")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
