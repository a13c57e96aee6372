"""What the verbs print: data on stdout, words on stderr."""

from __future__ import annotations

import json
import sys
from io import TextIOWrapper
from pathlib import Path
from shutil import get_terminal_size
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
    """A rich console; where the output is no terminal, COLUMNS wide, or else 120."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper):  # a terminal without × must not end the command
        stream.reconfigure(errors="replace")
    width = None if stream.isatty() else get_terminal_size((120, 24)).columns
    return Console(stderr=stderr, width=width, highlight=False)


def check_output(path: Path, force: bool) -> None:
    """Refuse an output that exists (without --force) or whose folder does not."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder", "give a file with -o")
    if path.exists() and not force:
        raise OutputExists(f"{path} exists already", "give another -o, or --force to overwrite it")
    if not path.resolve().parent.is_dir():
        raise BadInput(f"there is no folder {path.resolve().parent}", "make it, or give another -o")
