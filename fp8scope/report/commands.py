"""Commands to go on with, as a shell takes them."""

from __future__ import annotations

import shlex
from pathlib import Path


def command(*words: str | Path) -> str:
    """One line; words in capitals are for the reader to fill in."""
    return shlex.join(["fp8scope", *map(str, words)])
