"""The folder of a verification's reports: kept, whatever happens, for they are the evidence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fp8scope
from fp8scope.errors import BadInput, CannotWrite, OutputExists

MARKER = "session.json"
"""What tells a folder of ours, which may be overwritten, from any other."""


def reports_folder(output: Path) -> Path:
    """`verdict.json` has `verdict.reports` beside it."""
    return output.with_name(f"{output.name.removesuffix('.json')}.reports")


def make_folder(folder: Path, *, force: bool) -> None:
    """An empty folder, with our mark in it, that others cannot look into: reports of nsys hold the
    environment of processes, tokens and all. `force` empties one that is ours.

    Raises OutputExists, BadInput for one that is not ours, and CannotWrite.
    """
    if folder.exists():
        if not (folder / MARKER).is_file():
            what = f"{folder} is no folder of reports that fp8scope verify made"
            raise BadInput(what, "give another -o, or move it away")
        if not force:
            raise OutputExists(
                f"{folder} holds the reports of an earlier run", "give another -o, or --force"
            )
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700, parents=True)
        mark = {"format": "fp8scope-session", "fp8scope": fp8scope.__version__}
        (folder / MARKER).write_text(json.dumps(mark) + "\n", encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"cannot write {folder}: {error.strerror}", "give another -o") from error


def drop_empty(folder: Path) -> None:
    """Take the folder away again where nothing but our mark is in it: the run was refused."""
    if folder.is_dir() and [path.name for path in folder.iterdir()] == [MARKER]:
        shutil.rmtree(folder)
