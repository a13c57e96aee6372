"""A screen on which some things take seconds: they run in threads, and keys go on working."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from textual.message import Message

from fp8scope.errors import in_words
from fp8scope.tui.screen import BrowserScreen


class WorkingScreen(BrowserScreen):
    """`busy` says what must end before anything is changed; "" is nothing."""

    busy = ""

    class Done(Message):
        """A thread has ended: `then` shows what came of it."""

        def __init__(self, then: Callable[[], None]) -> None:
            super().__init__()
            self.then = then

    def work(
        self,
        do: Callable[[], Any],
        then: Callable[[Any], None],
        failed: Callable[[Exception], None] | None = None,
        busy: str = "",
    ) -> None:
        """Do something in a thread, and then what its result asks for, in the loop."""
        if busy:
            self.busy = busy

        def run() -> None:
            try:
                after = partial(then, do())
            except Exception as error:
                after = partial(failed or self.tell_problem, error)
            self.post_message(self.Done(partial(self._end, bool(busy), after)))

        self.run_worker(run, thread=True, exit_on_error=False)

    def tell_problem(self, error: Exception) -> None:
        """In one line."""
        self.browser.problem(in_words(error))

    def on_working_screen_done(self, message: Done) -> None:
        """Show what came of it."""
        message.then()

    def _end(self, was_busy: bool, after: Callable[[], None]) -> None:
        if was_busy:
            self.busy = ""
        after()
