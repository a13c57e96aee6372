"""A child command, watched: its output is kept, and nothing of what it started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from fp8scope.errors import Missing
from fp8scope.verify import processes

OUTPUT, ERRORS = "stdout.txt", "stderr.txt"
"""What a child printed, in its folder."""
TAIL = 200
"""Lines of stderr that are kept at hand."""
_TERMINATE_S, _KILL_S, _FOREVER_S = 5.0, 5.0, 1e9


@dataclass(frozen=True)
class Ended:
    """How a child ended. `exit_code` is None and `signal` its name where a signal ended it, also
    where a shell or a profiler around it said so by 128 + its number.
    """

    words: tuple[str, ...]
    folder: Path
    exit_code: int | None
    signal: str | None
    timed_out: bool
    seconds: float
    stderr_tail: tuple[str, ...]

    @property
    def succeeded(self) -> bool:
        """It ended by itself and well."""
        return self.exit_code == 0 and not self.timed_out

    def output(self, characters: int = 20_000) -> str:
        """The end of what it printed on stdout, then of stderr."""
        with suppress(OSError), (self.folder / OUTPUT).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - characters))
            printed = file.read().decode("utf-8", "replace")
            return "\n".join((printed, *self.stderr_tail))
        return "\n".join(self.stderr_tail)


def run(
    words: Sequence[str],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    grace_s: float = 30.0,
    on_line: Callable[[str], None] = lambda line: None,
    cleanup: ExitStack | None = None,
) -> Ended:
    """Run `words` in a session of its own until it ends, or `timeout_s` seconds have passed.

    stdout and stderr go to files in `folder`; each line of stderr also to `on_line`, in another
    thread. Whatever happens, nothing of what it started runs on: at the time-out and at Ctrl-C it
    gets SIGINT and `grace_s` seconds to finish its report, then SIGTERM, then SIGKILL.
    `cleanup` gets what ends it, for a handler of signals that does not raise. `environment` is
    added to ours. Raises Missing where the command cannot be started.
    """
    child = _Child(words, folder, environment or {}, on_line)
    if cleanup is not None:
        cleanup.callback(child.end, grace_s)
    try:
        timed_out = not child.wait(timeout_s)
    finally:  # the child may have left others behind, also where it ended by itself
        child.end(grace_s)
    return child.told(timed_out)


class _Child:
    """A command that runs, with what it starts."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> None:
        self._words, self._folder = tuple(words), folder
        self._over = ExitStack()
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._started = time.monotonic()
        self._seconds = 0.0
        self._ended = False
        folder.mkdir(parents=True, exist_ok=True)
        self._over.enter_context(processes.adopting_orphans())
        self._before = frozenset(processes.running().values())
        try:
            with (folder / OUTPUT).open("wb") as output:
                self._process = subprocess.Popen(  # noqa: S603
                    self._words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.PIPE,
                    env={**os.environ, **environment},
                    start_new_session=True,
                    text=True,
                    errors="replace",  # and a bar's carriage returns end lines
                )
        except OSError as error:
            self._over.close()
            what = f"{self._words[0]} cannot be started ({error.strerror})"
            raise Missing(what, "check the path, and that it may be executed") from error
        self._reader = threading.Thread(target=self._read, args=(on_line,), daemon=True)
        self._reader.start()

    def _read(self, on_line: Callable[[str], None]) -> None:
        stream = cast(IO[str], self._process.stderr)
        with (self._folder / ERRORS).open("w", encoding="utf-8") as kept, stream:
            for line in stream:
                kept.write(line)
                kept.flush()
                self._tail.append(line.rstrip())
                on_line(line.rstrip())

    def wait(self, timeout_s: float | None) -> bool:
        """False where it did not end in time."""
        try:
            # without a time-out it would hold a lock that a handler of signals needs
            self._process.wait(_FOREVER_S if timeout_s is None else timeout_s)
        except subprocess.TimeoutExpired:
            return False
        finally:
            self._seconds = time.monotonic() - self._started
        return True

    def end(self, grace_s: float) -> None:
        """End all of it that still runs. May be called from a handler of signals, and twice."""
        if self._ended:  # its number may be somebody else's by now
            return
        root = self._process.pid
        if processes.tree(root, self._before):
            # as a terminal does it: not to daemons of a profiler, which have sessions of their own
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(root, signal.SIGINT)
            wait = grace_s if self._process.returncode is None else 0.0
            if not processes.ended_within(root, self._before, wait):
                steps = ((signal.SIGTERM, _TERMINATE_S), (signal.SIGKILL, _KILL_S))
                processes.end_all(root, self._before, steps)
        elif self._process.returncode is None:  # no /proc: its group is all that is known
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(root, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_S)
        self._reader.join(_KILL_S)
        processes.collect_orphans(self._before)
        self._over.close()
        self._ended = True

    def told(self, timed_out: bool) -> Ended:
        code: int | None = self._process.returncode
        number = -code if code is not None and code < 0 else (code or 0) - 128
        by_signal = code is None or code < 0 or number in {each.value for each in signal.Signals}
        return Ended(
            self._words,
            self._folder,
            None if by_signal else code,
            processes.signal_name(number) if by_signal and code is not None else None,
            timed_out,
            self._seconds,
            tuple(self._tail),
        )
