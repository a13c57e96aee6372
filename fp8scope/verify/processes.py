"""The processes that a child started, wherever they went: read from /proc.

A worker that opened a session of its own is no longer in its parent's process group, and one whose
parent died belongs to somebody else. While we adopt orphans (Linux's child subreaper) such a one
becomes ours, and is told from other children of ours by its session.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_SET_CHILD_SUBREAPER, _GET_CHILD_SUBREAPER = 36, 37  # linux/prctl.h
_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process that runs. `started` in ticks since boot: with it a number is one process only."""

    number: int
    started: int
    parent: int = field(compare=False)
    session: int = field(compare=False)


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Descendants whose parent dies become children of this process; elsewhere than on Linux they
    are not found again.
    """
    library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if library is None:
        yield
        return
    before = ctypes.c_int()
    library.prctl(_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    library.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        library.prctl(_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def running() -> dict[int, Process]:
    """All processes that run, by number, without those that have ended and wait to be collected."""
    if not (_PROC / "self/stat").exists():
        return {}
    read = (_read(entry) for entry in _PROC.iterdir() if entry.name.isdecimal())
    return {process.number: process for process in read if process is not None}


def _read(entry: Path) -> Process | None:
    try:
        text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # ended in between, or not ours to look at
        return None
    state, parent, _, session, *rest = text.rpartition(")")[2].split()  # its name may hold blanks
    if state in "ZX":
        return None
    return Process(int(entry.name), int(rest[15]), int(parent), int(session))


def tree(root: int, before: frozenset[Process]) -> frozenset[Process]:
    """What runs of the child `root`, a leader of its session: the session, all descendants, and
    orphans of them that became ours. `before`: what ran when it was started.
    """
    now = running()
    found = {
        process
        for process in now.values()
        if root in {process.number, process.session} or _is_orphan(process, before)
    }
    while True:
        numbers = {process.number for process in found}
        more = {p for p in now.values() if p.parent in numbers} - found
        if not more:
            return frozenset(found)
        found |= more


def _is_orphan(process: Process, before: frozenset[Process]) -> bool:
    # a command that something else in this process starts stays in our session
    ours = process.parent == os.getpid() and process.session != os.getsid(0)
    return ours and process not in before


def send(root: int, before: frozenset[Process], number: int) -> None:
    """A signal to every process of the tree."""
    for process in tree(root, before):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process.number, number)


def within(seconds: float, done: Callable[[], bool]) -> bool:
    """Wait until something is `done`; False where it is not in so many seconds."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def collect_orphans(before: frozenset[Process]) -> None:
    """Take the exit codes of orphans that ended as children of ours, so that none stays a zombie.

    Only of sessions other than ours: the rest is waited for by those who started them.
    """
    known = {process.number for process in before}
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if not entry.name.isdecimal() or int(entry.name) in known:
            continue
        with suppress(OSError, ValueError):
            state, parent, _, session, *_ = (
                (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            )
            if state == "Z" and int(parent) == os.getpid() and int(session) != os.getsid(0):
                os.waitpid(int(entry.name), os.WNOHANG)


def signal_name(number: int) -> str:
    """SIGSEGV of 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
