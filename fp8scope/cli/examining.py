"""Progress of reading a checkpoint, on stderr: a bar of bytes on a terminal, else nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fp8scope.cli.show import console

SMALL = 200_000_000  # bytes that are read before anybody looks
STEP = 32 << 20  # bytes between two looks at the bar


@contextmanager
def examining() -> Iterator[Callable[[int, int], None]]:
    """`progress` of `examine`: bytes read, bytes in all."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("examining"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, console=console(stderr=True), disable=not sys.stderr.isatty(), transient=True
    ) as bars:
        tasks: list[Any] = []
        shown = 0

        def read(done: int, total: int) -> None:
            nonlocal shown
            if total < SMALL or (done - shown < STEP and done != total):
                return
            if not tasks:
                tasks.append(bars.add_task("examining", total=total))
            bars.update(tasks[0], completed=done)
            shown = done

        yield read
