"""Marks in time, and the milliseconds between them."""

from __future__ import annotations

from time import perf_counter
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """A stopwatch with any number of laps."""

    def mark(self) -> None:
        """Now."""

    def spans_ms(self) -> list[float]:
        """Between each two marks, when the device is done."""


class CpuClock:
    """Of a device that is done when a call returns."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def mark(self) -> None:
        """See `Clock`."""
        self._marks.append(perf_counter())

    def spans_ms(self) -> list[float]:
        """See `Clock`."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [1e3 * (later - earlier) for earlier, later in pairs]


class CudaClock:
    """Events in the stream: nothing waits, and gaps in which the GPU idles are counted."""

    def __init__(self) -> None:
        self._marks: list[Any] = []

    def mark(self) -> None:
        """See `Clock`."""
        event: Any = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def spans_ms(self) -> list[float]:
        """See `Clock`."""
        torch.cuda.synchronize()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [float(earlier.elapsed_time(later)) for earlier, later in pairs]


def clock_of(device: torch.device) -> Clock:
    """A clock for what runs there."""
    return CudaClock() if device.type == "cuda" else CpuClock()
