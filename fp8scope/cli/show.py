"""What the verbs print: data on stdout, words on stderr."""

from __future__ import annotations

import json
import shlex
import sys
from io import TextIOWrapper
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def say(message: str) -> None:
    """A line for the person."""
    print(message, file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    """Machine-readable stdout; refuses NaN and infinity, which JSON does not have."""
    plain = sys.stdout.encoding.lower() != "utf-8"
    json.dump(data, sys.stdout, ensure_ascii=plain, allow_nan=False, indent=2)
    sys.stdout.write("\n")


def console(*, stderr: bool = False) -> Console:
    """A rich console; where the output is no terminal, COLUMNS wide, or else 120."""
    from rich.console import Console

    class Quiet(Console):
        """Raises where the reader of a pipe went away, as `print` does; rich would exit with 1."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper):  # a terminal without × must not end the command
        stream.reconfigure(errors="replace")
    width = None if stream.isatty() else get_terminal_size((120, 24)).columns
    return Quiet(stderr=stderr, width=width, highlight=False)


def wrote(path: Path) -> str:
    """`wrote profile.h5 (0.8 MB)`."""
    size = path.stat().st_size
    shown = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
    return f"wrote {path} ({shown})"


def next_step(path: Path) -> str:
    """The command that looks at a profile, ready to be pasted."""
    return f"next: fp8scope analyze {shlex.quote(str(path))}"


def go_on() -> str:
    """The command that goes on with this one, ready to be pasted."""
    again = [word for word in sys.argv[1:] if word != "--resume"]
    return f"go on with: fp8scope {shlex.join([*again, '--resume'])}"
