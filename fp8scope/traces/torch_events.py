"""Events of a Chrome trace that torch.profiler wrote, and what was open when one began."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from fp8scope.errors import BadInput

LARGEST = 1 << 31
"""Bytes of JSON: as objects they take ten times as much."""
EXPORT_AGAIN = "let the profiler end, and export the trace again"
Thread = tuple[str, str]


@dataclass(frozen=True)
class Event:
    """A complete event (`ph` X): `category` in lower case, times in µs, `thread` its (pid, tid)."""

    name: str
    category: str
    start_us: float
    time_us: float
    thread: Thread
    args: Mapping[str, Any]

    @property
    def end_us(self) -> float:
        """When it ended."""
        return self.start_us + self.time_us


def read_events(path: Path) -> tuple[list[Event], dict[str, Any]]:
    """The complete events of a .json or .json.gz, and what else the file says.

    Raises BadInput of a file that is cut off, or not a Chrome trace.
    """
    try:
        trace = json.loads(_content(path))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path} is cut off: its gzip data does not end", EXPORT_AGAIN) from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})", "give a trace.json") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON, or cut off", EXPORT_AGAIN) from error
    head = trace if isinstance(trace, dict) else {"traceEvents": trace}
    events = head.get("traceEvents")
    if not isinstance(events, list):
        raise BadInput(f"{path} is no Chrome trace: it has no traceEvents", "give torch.profiler's")
    return list(_complete(events)), head


def _content(path: Path) -> bytes:
    """Unpacked; of a file that was packed to fill the memory no more than `LARGEST`."""
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if is_packed else path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise BadInput(f"{path} holds more than {LARGEST >> 20} MiB", "profile fewer steps")
    return data


def _complete(events: Iterable[Any]) -> Iterator[Event]:
    for event in events:
        if not isinstance(event, dict) or event.get("ph") != "X":
            continue
        try:
            start, time = float(event["ts"]), float(event.get("dur", 0))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue  # nothing can be said of an event without a time
        if not (math.isfinite(start) and math.isfinite(time)):
            continue
        args = event.get("args")
        yield Event(
            name=str(event.get("name", "")),
            category=str(event.get("cat", "")).lower(),
            start_us=start,
            time_us=max(time, 0.0),  # clocks that were matched badly
            thread=(str(event.get("pid")), str(event.get("tid"))),
            args=args if isinstance(args, dict) else {},
        )


def open_at(
    events: Iterable[Event], moments: Iterable[Event]
) -> Iterator[tuple[Event, list[Event]]]:
    """Each of `moments` with those of `events` that its start lies in, on its own thread, longest
    first. An event does not lie in itself.

    Ranges of one thread usually nest, but need not: a range may end while later ones are open.
    """
    marked = [(event, False) for event in events] + [(event, True) for event in moments]
    for _, group in groupby(sorted(marked, key=lambda m: _order(*m)), key=lambda m: m[0].thread):
        opened: list[Event] = []
        for event, is_moment in group:
            opened = [other for other in opened if other.end_us > event.start_us]
            if is_moment:
                yield event, [other for other in opened if other is not event]
            else:
                opened.append(event)


def _order(event: Event, is_moment: bool) -> tuple[Thread, float, float, bool]:
    """By thread and start; of those that start together the longest is the outermost."""
    return event.thread, event.start_us, -event.time_us, is_moment


def dtypes(event: Event) -> tuple[str, ...]:
    """Dtypes of an operator's tensors in torch's words: `c10::Float8_e4m3fn` → `float8_e4m3fn`."""
    given = event.args.get("Input type")
    types: Sequence[Any] = given if isinstance(given, list) else ()
    return tuple(_dtype(str(name)) for name in types if name not in _NO_TENSOR)


_NO_TENSOR = ("", "Scalar", "ScalarList", "TensorList", "GenericList")
_C_TYPES = {
    "float": "float32", "double": "float64", "half": "float16", "long int": "int64",
    "long": "int64", "int": "int32", "short int": "int16", "short": "int16", "signed char": "int8",
    "char": "int8", "unsigned char": "uint8",
}  # fmt: skip


def _dtype(name: str) -> str:
    name = name.removeprefix("c10::").lower()
    return _C_TYPES.get(name, name)
