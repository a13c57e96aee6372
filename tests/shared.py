"""What several files of tests need and takes long to make: made once for all processes."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The file called `name` that `make` writes, atomically; do not change it.

    The first process that asks makes it, the others wait.
    """
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each has a folder in one that is common to all
        folder = folder.parent
    path = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(path)
    return path


def scan(path: Path, *words: object) -> None:
    """`fp8scope scan WORDS -o path` in this process."""
    run("scan", *words, "-o", path)


def run(*words: object) -> None:
    """`fp8scope WORDS` in this process."""
    from fp8scope.cli.app import main

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", list(map(str, ["fp8scope", *words])))
        main()
    for number, handler in before.items():  # the command listens to the end of its process
        signal.signal(number, handler)


def whole_demo(factory: pytest.TempPathFactory) -> Path:
    """The profile that `fp8scope scan demo` writes."""
    return once(factory, "demo.h5", lambda path: scan(path, "demo", "--json"))
