"""NVTX ranges of an export of nsys, and the projection of launches onto them.

A launch lies in a range if the range encloses the CUDA call, on the same thread; the innermost is
the one that started last. nsys itself projects so (its report nvtx_gpu_proj_trace).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fp8scope.traces.module_ranges import module_of
from fp8scope.traces.nsys_tables import NS_PER_US, THREAD_BITS, Export
from fp8scope.traces.trace import DOMAIN, Range

DOMAIN_CREATE = 75
EVENTS_OF_RANGES = "WHERE eventType IN (59, 60, 75) AND globalTid IS NOT NULL"
"""Push and pop, start and end, and the domains that they are in."""
EVENT = ["start", "end", "eventType", "text", "textId", "domainId", "globalTid", "endGlobalTid"]


class Span(NamedTuple):
    """One time through a range, in ns, on one thread."""

    start: int
    end: int
    name: str


@dataclass
class Ranges:
    """Spans by thread (globalTid), those around others first. `notes`: in sentences."""

    spans: dict[int, list[Span]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def listed(self) -> tuple[Range, ...]:
        """Every time through a range, in the order in which they began."""
        found = []
        for spans in self.spans.values():
            around = enclosing(spans, [(span.start, span.end) for span in spans])
            for own, (span, indices) in enumerate(zip(spans, around, strict=True)):
                parents = tuple(spans[index].name for index in indices if index < own)
                start_us, end_us = span.start / NS_PER_US, span.end / NS_PER_US
                found.append(Range(span.name, start_us, end_us, parents))
        return tuple(sorted(found, key=lambda span: (span.start_us, -span.end_us)))

    def project(self, thread: int, calls: Sequence[tuple[int, int]]) -> list[tuple[str, ...]]:
        """Names of the ranges around each call (start, end) of a thread, outermost first."""
        spans = self.spans.get(thread, [])
        names: dict[tuple[int, ...], tuple[str, ...]] = {}  # a step's kernels share few of them
        for indices in (around := enclosing(spans, calls)):
            if indices not in names:
                names[indices] = tuple(spans[index].name for index in indices)
        return [names[indices] for indices in around]


def enclosing(spans: Sequence[Span], calls: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
    """For each call (start, end), in the order given, the spans around it as ascending indices.

    `spans` are in the order of `sorted_spans`. One sweep over both: a span that has ended before a
    call begins is around none of the later calls.
    """
    found: list[tuple[int, ...]] = [()] * len(calls)
    running: list[int] = []
    upcoming = 0
    for call in sorted(range(len(calls)), key=lambda index: calls[index]):
        start, end = calls[call]
        while upcoming < len(spans) and spans[upcoming].start <= start:
            running.append(upcoming)
            upcoming += 1
        running = [index for index in running if spans[index].end >= start]
        found[call] = tuple(index for index in running if spans[index].end >= end)
    return found


def sorted_spans(spans: Sequence[Span]) -> list[Span]:
    """By start; of two that start together, the longer is the outer one."""
    return sorted(spans, key=lambda span: (span.start, -span.end))


def read_ranges(export: Export) -> Ranges:
    """Our ranges; where there is none, the module ranges of another engine's hooks."""
    export.require("NVTX_EVENTS", ["start", "eventType", "globalTid"])
    strings = export.strings()
    events = list(export.rows("NVTX_EVENTS", EVENT, EVENTS_OF_RANGES))
    last = max((event[1] or event[0] for event in events), default=0)
    our_domains = {  # numbered by each process for itself
        (_process(thread), domain)
        for _, _, kind, text, text_id, domain, thread, _ in events
        if kind == DOMAIN_CREATE and (text or strings.get(text_id)) == DOMAIN
    }
    ours: dict[int, list[Span]] = defaultdict(list)
    theirs: dict[int, list[Span]] = defaultdict(list)
    modules: dict[str, str] = {}
    elsewhere = unclosed = 0
    for start, end, kind, text, text_id, domain, thread, end_thread in events:
        if kind == DOMAIN_CREATE:
            continue
        name = text if text is not None else strings.get(text_id, "")
        is_ours = (_process(thread), domain) in our_domains
        if not is_ours and name not in modules:
            modules[name] = module_of(name)
        if not (module := name if is_ours else modules[name]):
            continue
        if end_thread is not None and end_thread != thread:
            elsewhere += 1
            continue
        unclosed += end is None
        span = Span(start, last if end is None else end, module)
        (ours if is_ours else theirs)[thread].append(span)
    notes = _notes(bool(ours), bool(theirs), bool(our_domains))
    if elsewhere:
        notes.append(f"{elsewhere} ranges ended on another thread than they began on: left out")
    if unclosed:
        notes.append(f"{unclosed} ranges were never closed: taken to last until the end")
    return Ranges(
        {thread: sorted_spans(found) for thread, found in (ours or theirs).items()}, notes
    )


def _process(thread: int) -> int:
    return thread >> THREAD_BITS


def _notes(ours: bool, theirs: bool, registered: bool) -> list[str]:
    if ours:
        return []
    if theirs:
        return [
            "the ranges are an engine's own, one per module: prefill and decode are not told apart"
        ]
    if registered:
        return [
            f"the NVTX domain {DOMAIN} is there, but none of its ranges: the package nvtx is newer "
            "than this nsys can read (nsys 2023.4 reads nvtx 0.2.11)"
        ]
    return ["no NVTX ranges of fp8scope or of an engine's modules: kernels have no layer"]
