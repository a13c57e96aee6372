"""A file that another process writes, line by line while it grows."""

from __future__ import annotations

import codecs
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

_POLL_S = 0.05


class Follower:
    """Passes each line of the file at `path` to `on_line`, in a thread of its own, and keeps the
    last `keep`. A carriage return ends a line too, as progress bars use it.
    """

    def __init__(self, path: Path, on_line: Callable[[str], None], keep: int) -> None:
        self.tail: deque[str] = deque(maxlen=keep)
        self._path, self._on_line = path, on_line
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """The file must exist."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Read to the end of what is there now."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        rest = ""
        with self._path.open("rb") as file:
            while True:
                last = self._stop.is_set()  # asked before the read that may be the last
                data = file.read()
                *lines, rest = (rest + decode(data, final=last)).replace("\r", "\n").split("\n")
                for line in lines:
                    self._pass_on(line)
                if last:
                    break
                if not data:
                    self._stop.wait(_POLL_S)
        if rest:
            self._pass_on(rest)

    def _pass_on(self, line: str) -> None:
        if line.strip():  # a \r\n makes an empty one
            self.tail.append(line.rstrip())
            self._on_line(line.rstrip())
