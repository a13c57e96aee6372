"""A child command, watched: its output is kept, and nothing of what it started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from fp8scope.errors import Missing
from fp8scope.verify import processes
from fp8scope.verify.follow import Follower

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
    child = _Child(words, folder, on_line)
    if cleanup is not None:  # before it starts: a signal may come at any moment
        cleanup.callback(child.kill)  # reached by a second signal, while the first waits
        cleanup.callback(child.end, grace_s)
    try:
        child.start(environment or {})
        timed_out = not child.wait(timeout_s)
    finally:  # the child may have left others behind, also where it ended by itself
        child.end(grace_s)
    return child.told(timed_out)


class _Child:
    """A command that runs, with what it starts."""

    def __init__(self, words: Sequence[str], folder: Path, on_line: Callable[[str], None]) -> None:
        self._words, self._folder = tuple(words), folder
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = Follower(folder / ERRORS, on_line, TAIL)
        self._started = time.monotonic()
        self._seconds = 0.0
        self._ended = False
        self._over = ExitStack()
        self._over.enter_context(processes.adopting_orphans())
        self._before = frozenset(processes.running().values())

    @property
    def _root(self) -> int:
        """Its number; while it starts none, and it is found as a child of ours."""
        return self._process.pid if self._process is not None else -1

    @property
    def _code(self) -> int | None:
        return self._process.returncode if self._process is not None else None

    def start(self, environment: Mapping[str, str]) -> None:
        """Raises Missing where the command cannot be started."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            # straight into files: they hold all of it, whatever becomes of this process
            with (
                (self._folder / OUTPUT).open("wb") as output,
                (self._folder / ERRORS).open("wb") as errors,
            ):
                self._process = subprocess.Popen(  # noqa: S603
                    self._words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    env={**os.environ, **environment},
                    start_new_session=True,
                )
        except OSError as error:
            what = f"{self._words[0]} cannot be started ({error.strerror})"
            raise Missing(what, "check the path, and that it may be executed") from error
        self._errors.start()

    def wait(self, timeout_s: float | None) -> bool:
        """False where it did not end in time."""
        assert self._process is not None  # noqa: S101
        try:
            # without a time-out it would hold a lock that a handler of signals needs
            self._process.wait(_FOREVER_S if timeout_s is None else timeout_s)
        except subprocess.TimeoutExpired:
            return False
        finally:
            self._seconds = time.monotonic() - self._started
        return True

    def kill(self) -> None:
        """SIGKILL to all of it, at once."""
        if not self._ended:
            processes.send(self._root, self._before, signal.SIGKILL)

    def end(self, grace_s: float) -> None:
        """End all of it that still runs. May be called from a handler of signals, and twice."""
        if self._ended:  # its number may be somebody else's by now
            return
        root = self._root
        if self._process is not None and self._code is None:
            # as a terminal does it: not to daemons of a profiler, which have sessions of their own
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(root, signal.SIGINT)
            processes.within(grace_s, lambda: root not in processes.running())
        for number, seconds in ((signal.SIGTERM, _TERMINATE_S), (signal.SIGKILL, _KILL_S)):
            processes.send(root, self._before, number)
            if processes.within(seconds, lambda: not processes.tree(root, self._before)):
                break
        self._collect(root)
        self._over.close()
        self._ended = True

    def _collect(self, root: int) -> None:
        if self._process is not None:
            if not processes.running():  # no /proc: its group is all that is known
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(root, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_KILL_S)
        self._errors.stop(_KILL_S)
        processes.collect_orphans(self._before)

    def told(self, timed_out: bool) -> Ended:
        """How it ended."""
        code = self._code
        number = -code if code is not None and code < 0 else (code or 0) - 128
        by_signal = code is None or code < 0 or number in {each.value for each in signal.Signals}
        return Ended(
            self._words,
            self._folder,
            None if by_signal else code,
            processes.signal_name(number) if by_signal and code is not None else None,
            timed_out,
            self._seconds,
            tuple(self._errors.tail),
        )
