"""What the verbs print: data on stdout, words on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fp8scope.errors import BadInput, OutputExists

if TYPE_CHECKING:
    from rich.console import Console


def say(message: str) -> None:
    """A line for the person."""
    print(message, file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    """Machine-readable stdout; refuses NaN and infinity, which JSON does not have."""
    json.dump(data, sys.stdout, ensure_ascii=False, allow_nan=False, indent=2)
    sys.stdout.write("\n")


def console(*, stderr: bool = False) -> Console:
    """A rich console; wide enough for a table where the output is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 120, highlight=False)


def check_output(path: Path, force: bool) -> None:
    """Refuse an output that exists (without --force) or whose folder does not."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder", "give a file with -o")
    if path.exists() and not force:
        raise OutputExists(f"{path} exists already", "give another -o, or --force to overwrite it")
    if not path.resolve().parent.is_dir():
        raise BadInput(f"there is no folder {path.resolve().parent}", "make it, or give another -o")
