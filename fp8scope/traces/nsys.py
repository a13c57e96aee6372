"""Reads what `nsys export --type sqlite` writes: kernels under the ranges that launched them."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fp8scope.errors import BadInput
from fp8scope.traces.nsys_ranges import Ranges, read_ranges
from fp8scope.traces.nsys_tables import (
    NS_PER_US,
    THREAD_BITS,
    Export,
    device_numbers,
    devices,
    opened,
    samples,
)
from fp8scope.traces.trace import Kernel, Range, Trace

KERNELS, CALLS = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME"
GRAPHS = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
"""Launches of CUDA graphs that were recorded whole, without the kernels in them."""
NAMES = ["demangledName", "shortName", "mangledName"]
COLUMNS = ["start", "end", "deviceId", "correlationId", "globalPid", "gridX", "gridY", "gridZ"]
PROCESS_MASK = ~((1 << THREAD_BITS) - 1)


def read_nsys(path: Path) -> Trace:
    """The trace of an export; kernels in the order in which they began.

    Kernels of a CUDA graph (`--cuda-graph-trace=node`) lie in the range of the graph's launch.
    Raises BadInput where the file cannot be read, is no export of nsys, or holds no kernels.
    """
    with opened(path) as export, _uncollected():
        ranges = read_ranges(export)
        notes = list(ranges.notes)
        kernels = _kernels(export, ranges, notes)
        sampled = samples(export)
        if not sampled:
            notes.append(
                "no GPU metrics: --gpu-metrics-devices was not given, or was not permitted"
            )
        return Trace(
            tool="nsys",
            path=str(path),
            kernels=kernels,
            ranges=ranges.listed(),
            samples=sampled,
            devices=devices(export),
            tool_version=export.version(),
            notes=tuple(notes),
        )


def read_nsys_ranges(path: Path) -> tuple[Range, ...]:
    """The ranges of an export alone, of a run without a GPU too. Raises BadInput as `read_nsys`."""
    with opened(path) as export:
        return read_ranges(export).listed()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would walk a million tuples over and over.

    Nothing made here refers back to itself; it is a third of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _kernels(export: Export, ranges: Ranges, notes: list[str]) -> tuple[Kernel, ...]:
    export.require(KERNELS, ["start", "end", "deviceId", "correlationId"])
    export.require(CALLS, ["start", "end", "globalTid", "correlationId"])
    rows = sorted(export.rows(KERNELS, [*COLUMNS, *NAMES]), key=lambda row: row[0])
    graphs = len(list(export.rows(GRAPHS, ["start"])))
    if not rows:
        cause, remedy = _no_kernels(export, graphs)
        raise BadInput(f"{export.path} holds no kernels: {cause}", remedy)
    if graphs:
        notes.append(
            f"{graphs} launches of CUDA graphs were recorded whole, without their kernels: profile "
            "with --cuda-graph-trace=node"
        )
    around, lost = _around(export, ranges, rows)
    if lost:
        notes.append(f"the launches of {lost} of {len(rows)} kernels were not recorded: no range")
    strings, numbers = export.strings(), device_numbers(export)
    return tuple(
        _kernel(row, names, strings, numbers) for row, names in zip(rows, around, strict=True)
    )


def _no_kernels(export: Export, graphs: int) -> tuple[str, str]:
    """The likely cause, and what to do."""
    if graphs:
        return (
            f"{graphs} launches of CUDA graphs were recorded whole",
            "profile again with --cuda-graph-trace=node",
        )
    if any(True for _ in export.rows(CALLS, ["start"], "LIMIT 1")):
        return (
            "CUDA was called, but nothing that ran on a GPU was recorded",
            "synchronize before the capture ends (cudaProfilerStop, or the end of the program)",
        )
    return (
        "no use of CUDA was recorded",
        "profile with -t cuda,nvtx on a machine with a GPU; with -c cudaProfilerApi the program "
        "must call cudaProfilerStart",
    )


def _around(
    export: Export, ranges: Ranges, rows: Sequence[tuple[Any, ...]]
) -> tuple[list[tuple[str, ...]], int]:
    """The ranges around each kernel's launch, and how many launches are not in the export."""
    wanted: dict[tuple[int | None, int], list[int]] = defaultdict(list)
    with_process = "globalPid" in export.tables[KERNELS]
    for index, row in enumerate(rows):
        wanted[row[4] if with_process else None, row[3]].append(index)
    calls: dict[int, list[tuple[int, int]]] = defaultdict(list)
    kernels: dict[int, list[list[int]]] = defaultdict(list)
    found = 0
    for start, end, thread, correlation in export.rows(
        CALLS, ["start", "end", "globalTid", "correlationId"], "WHERE globalTid IS NOT NULL"
    ):
        process = thread & PROCESS_MASK if with_process else None
        if indices := wanted.pop((process, correlation), None):
            calls[thread].append((start, end))
            kernels[thread].append(indices)
            found += len(indices)
    around: list[tuple[str, ...]] = [()] * len(rows)
    for thread, of_thread in calls.items():
        projected = ranges.project(thread, of_thread)
        for indices, names in zip(kernels[thread], projected, strict=True):
            for index in indices:
                around[index] = names
    return around, len(rows) - found


def _kernel(
    row: tuple[Any, ...],
    names: tuple[str, ...],
    strings: dict[int, str],
    numbers: dict[tuple[int, int], int],
) -> Kernel:
    start, end, cuda, _, process, x, y, z, demangled, short, mangled = row
    name = strings.get(demangled) or strings.get(short) or strings.get(mangled, "")
    # The process number is the 24 bits above the thread's.
    pid = (process >> THREAD_BITS) & ((1 << THREAD_BITS) - 1) if process is not None else 0
    return Kernel(
        name=name,
        time_us=(end - start) / NS_PER_US,
        ranges=names,
        start_us=start / NS_PER_US,
        device=numbers.get((pid, cuda), cuda),
        blocks=x * y * z if x and y and z else None,
    )
