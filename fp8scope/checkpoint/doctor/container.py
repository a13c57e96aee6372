"""What is wrong with the files themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fp8scope.checkpoint.doctor.codes import Severity
from fp8scope.checkpoint.doctor.contents import Contents
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.phrases import many
from fp8scope.checkpoint.header import Problem, ProblemKind
from fp8scope.checkpoint.listing import Listing
from fp8scope.errors import BadInput

TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
    "spiece.model", "tekken.json", "tiktoken.model", "sentencepiece.bpe.model",
)  # fmt: skip
_SIGNS = {"config.json", "hf_quant_config.json", "model.safetensors.index.json"}
_CODES: dict[ProblemKind, tuple[str, Severity]] = {
    "no-weights": ("weights-missing", "error"),
    "pickles": ("weights-missing", "error"),
    "unreadable": ("file-unreadable", "error"),
    "truncated": ("file-truncated", "error"),
    "header": ("header-unreadable", "error"),
    "offsets": ("header-offsets", "error"),
    "layout": ("header-offsets", "error"),
    "trailing": ("file-trailing", "error"),
    "index": ("index-unreadable", "error"),
    "missing-shard": ("shard-missing", "error"),
    "not-in-shard": ("index-not-in-shard", "error"),
    "not-in-index": ("index-incomplete", "error"),
    "duplicate": ("tensor-duplicate", "error"),
    "two-weights": ("weights-twice", "error"),
    "stray": ("weights-stray", "warning"),
}
_CONVERT = "convert them: safetensors.torch.save_file"  # nothing here loads a pickle


def file_faults(listing: Listing) -> Iterator[Fault]:
    """A fault for each kind of problem of the files; several files of one kind are one fault."""
    kinds: dict[str, list[Problem]] = {}
    for problem in listing.problems:
        kinds.setdefault(_CODES[problem.kind][0], []).append(problem)
    for code, problems in kinds.items():
        first = problems[0]
        what = f"{first.file}: {first.what}" if first.file else first.what
        if len(problems) > 1:
            what += f"; and {len(problems) - 1} more like that"
        where = (file for p in problems for file in (p.file, *p.files, *p.tensors) if file)
        places = tuple(dict.fromkeys(where))
        remedy = _CONVERT if first.kind == "pickles" else first.remedy
        yield Fault(code, _CODES[first.kind][1], what, remedy, places)


def folder_faults(contents: Contents) -> Iterator[Fault]:
    """What should lie beside the weights, and tensors that could not be read to their end."""
    if not any((contents.folder / name).exists() for name in TOKENIZERS):
        remedy = "copy the tokenizer's files from the model: engines load them from here"
        yield Fault("tokenizer-missing", "warning", "there is no tokenizer", remedy)
    if contents.changed:
        changed = sorted(contents.changed)
        what = f"{many(changed, 'file')} changed while the checkpoint was read"
        remedy = "examine it again when nobody writes there: what is said of it may be wrong"
        yield Fault("files-changed", "error", what, remedy, tuple(changed))
    told = {name for problem in contents.listing.problems for name in problem.tensors}
    unread = [
        name
        for name in contents.values.unread
        if name not in told and contents.tensors[name].file not in contents.changed
    ]
    if unread:
        what = f"{many(unread, 'tensor')} could not be read"
        yield Fault("tensor-unread", "error", what, "check the disk", tuple(unread))


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file that is read, by its name.

    Raises BadInput where there is no folder, none that may be read, or no checkpoint in it.
    """
    if folder.is_file():
        raise BadInput(f"{folder} is a file", "give the folder that it lies in")
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder", "give the folder of a checkpoint")
    try:
        names = sorted(path.name for path in folder.iterdir())
        read = [name for name in names if name.endswith((".json", ".safetensors"))]
        found = {name: (folder / name).stat() for name in read if (folder / name).exists()}
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be read ({error.strerror})", "check whose it is"
        ) from error
    if not any(name.endswith(".safetensors") or name in _SIGNS for name in read):
        remedy = "give a folder with config.json and safetensors"
        raise BadInput(f"{folder} holds no checkpoint", remedy)
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}
