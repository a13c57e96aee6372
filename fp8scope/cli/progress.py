"""Progress of a scan on stderr, and Ctrl-C that waits for the micro-batch to end."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from fp8scope.cli.show import console, say
from fp8scope.observe.scan import Events

ESTIMATE_AFTER = 3  # batches: the first is slower than the rest


@contextmanager
def watch(total_tokens: int) -> Iterator[Events]:
    """Events that draw a bar (a few plain lines where stderr is no terminal)."""
    stop = _StopOnSignal()
    screen = console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with stop, Progress(*columns, console=screen, disable=not sys.stderr.isatty()) as bars:
        view = _View(bars, total_tokens)
        yield Events(weights=view.weights, batch=view.batch, stop=lambda: stop.asked)


class _View:
    def __init__(self, bars: Progress, total_tokens: int) -> None:
        self.bars = bars
        self.total_tokens = total_tokens
        self.tokens = 0
        self.steps = 0
        self.first_end = 0.0
        self.first_tokens = 0
        self.weights_task: Any = None
        self.tokens_task: Any = None

    def weights(self, done: int, total: int) -> None:
        if self.weights_task is None:
            fields: dict[str, Any] = {"unit": "linears", "speed": ""}
            self.weights_task = self.bars.add_task("weights", total=total, **fields)
        self.bars.update(self.weights_task, completed=done)

    def batch(self, done: int, total: int, tokens: int) -> None:
        now = time.monotonic()
        self.steps += 1
        self.tokens += tokens
        if self.tokens_task is None:
            fields: dict[str, Any] = {"unit": "tokens", "speed": ""}
            self.tokens_task = self.bars.add_task("text", total=self.total_tokens, **fields)
            self.first_end, self.first_tokens = now, self.tokens
        speed = (self.tokens - self.first_tokens) / max(now - self.first_end, 1e-9)
        shown = f"{speed:,.0f} tokens/s" if self.steps > 1 else ""
        self.bars.update(self.tokens_task, advance=tokens, speed=shown)
        if self.steps == ESTIMATE_AFTER and done < total and not sys.stderr.isatty():
            seconds = (total - done) * (now - self.first_end) / (self.steps - 1)
            say(f"{done} of {total} batches, {shown}: about {_duration(seconds)} to go")


class _StopOnSignal:
    """The first Ctrl-C (or SIGTERM) asks the scan to stop; the second stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopOnSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        say("stopping after this batch (again to stop at once) …")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
