"""Ctrl-C and SIGTERM, for as long as the process lives.

Python's own handler raises wherever the program happens to be: inside a weak reference's callback
that is swallowed, with a traceback, and the program runs on. Ours never raises. Where there is
something worth finishing it sets `asked`, which is looked at between two steps; elsewhere, and at
the second Ctrl-C, it says its line and ends the process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

EXIT_CODE = 130


class Interrupts:
    """What to do when Ctrl-C comes.

    `finishing` names the step that it waits for; empty where it ends the process at once.
    `announce` gets the sentence that says so. `standing()` says what is kept, and `cleanup`
    holds what must not be left behind.
    """

    def __init__(self) -> None:
        self.asked = False
        self.finishing = ""
        self.announce: Callable[[str], None] = tell
        self.standing: Callable[[], str] = lambda: ""
        self.cleanup = ExitStack()

    def listen(self) -> None:
        """From now on, to the very end: Python's exit would answer with a traceback too."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and `trap ''` leave it
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self.finishing:
            self._end()
        self.asked = True
        self.announce(f"stopping after {self.finishing} (again to stop at once) …")

    def _end(self) -> None:
        self.cleanup.close()
        tell(", ".join(filter(None, ("fp8scope: interrupted", self.standing()))))
        os._exit(EXIT_CODE)


def tell(line: str) -> None:
    """Write to stderr past Python's buffers: the signal may have come in the middle of a print."""
    terminal = "\n\x1b[?25h" if sys.stderr.isatty() else ""  # after ^C; a bar hides the cursor
    os.write(2, f"{terminal}{line}\n".encode(errors="backslashreplace"))
