"""Finding a profiler's executable, and asking it what it is and can do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fp8scope.errors import Missing, one_line

PERMISSION = (
    "run as root (in a container: with --cap-add=SYS_ADMIN), or have the driver loaded with "
    "NVreg_RestrictProfilingToAdminUsers=0 (https://developer.nvidia.com/ERR_NVGPUCTRPERM)"
)
"""What to do where counters may not be read."""
_OPTION = re.compile(
    r"^\s*(?:\([A-Za-z]+\) *)?(?:-\w(?:, | \[ ))?(--[a-z][a-z0-9-]+)", re.MULTILINE
)
_VERSION = re.compile(r"version (\d+(?:\.\d+)+)", re.IGNORECASE)


def executables(
    name: str, patterns: Sequence[str], environment: Mapping[str, str], root: Path
) -> list[Path]:
    """Where `name` is: named by the variable NAME, on PATH, in folders of installers below `root`;
    newer folders first. Raises Missing where the variable names nothing.
    """
    named = environment.get(name.upper())
    if named:
        path = shutil.which(named)
        if path is None:
            what = f"{name.upper()}={named} cannot be executed"
            raise Missing(what, f"let it name the executable of {name}, or unset it")
        return [Path(path)]
    on_path = shutil.which(name, path=environment.get("PATH", os.defpath))
    found = [Path(on_path)] if on_path else []
    for pattern in patterns:
        below = (path for path in root.glob(pattern) if os.access(path, os.X_OK))
        found += sorted(below, key=_newest, reverse=True)
    return found


def _newest(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]


def ask(words: Sequence[str | Path], timeout_s: float = 120.0) -> str:
    """All that a short command prints. Raises Missing where it cannot run, or does not end."""
    try:
        done = subprocess.run(  # noqa: S603
            [str(word) for word in words],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        what = f"{words[0]} does not work ({one_line(error)})"
        raise Missing(what, "install it anew, or choose another --profiler") from error
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def version_in(text: str) -> str:
    """2023.4.4.54 of what `--version` prints; empty where it says none."""
    found = _VERSION.search(text)
    return found[1] if found else ""


def options_in(text: str) -> frozenset[str]:
    """The long options that a help text explains, not those that it only mentions."""
    return frozenset(_OPTION.findall(text))


def first_line_with(text: str, parts: Iterable[str]) -> str | None:
    """The first line that holds one of `parts`, without what ncu puts before it."""
    parts = tuple(part.lower() for part in parts)
    for line in text.splitlines():
        if any(part in line.lower() for part in parts):
            return line.replace("==ERROR==", "").replace("==WARNING==", "").strip()
    return None
