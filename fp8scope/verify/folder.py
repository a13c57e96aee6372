"""The folder of a verification's reports: kept, whatever happens, for they are the evidence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fp8scope
from fp8scope.errors import BadInput, CannotWrite, OutputExists

MARKER, FORMAT = "session.json", "fp8scope-session"
"""The file that tells a folder of ours, which may be overwritten, from any other, by its format."""


def reports_folder(output: Path) -> Path:
    """`verdict.json` has `verdict.reports` beside it."""
    return output.with_name(f"{output.name.removesuffix('.json')}.reports")


@contextmanager
def new_folder(folder: Path, *, force: bool) -> Iterator[Path]:
    """An empty folder, with our mark in it, that others cannot look into: reports of nsys hold the
    environment of processes, tokens and all. `force` empties one that is ours. It stays also where
    the block fails, unless nothing was put into it.

    Raises OutputExists, BadInput for what is not ours, and CannotWrite.
    """
    if folder.exists() or folder.is_symlink():
        if not _is_ours(folder):
            what = f"{folder} is no folder of reports that fp8scope verify made"
            raise BadInput(what, "give another -o, or move it away")
        if not force:
            raise OutputExists(
                f"{folder} holds the reports of an earlier run", "give another -o, or --force"
            )
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        mark = {"format": FORMAT, "fp8scope": fp8scope.__version__}
        (folder / MARKER).write_text(json.dumps(mark) + "\n", encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"cannot write {folder}: {error.strerror}", "give another -o") from error
    try:
        yield folder
    except BaseException:
        _drop_unused(folder)
        raise


def _is_ours(folder: Path) -> bool:
    """By the content of the mark: others have files of that name too."""
    if folder.is_symlink():  # it leads where nobody said that anything may be deleted
        return False
    try:
        mark = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(mark, dict) and mark.get("format") == FORMAT


def _drop_unused(folder: Path) -> None:
    with suppress(OSError):
        if [path.name for path in folder.iterdir()] == [MARKER]:
            shutil.rmtree(folder)
