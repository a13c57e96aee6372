"""Reports of Nsight Compute: kernels that were replayed one by one, with hardware counters.

Either the CSV that `ncu -i REPORT --csv --page raw` prints (`--page details` too), or the report
itself through the package `ncu_report`, which needs no GPU.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fp8scope.errors import BadInput, Missing, one_line
from fp8scope.traces.ncu_metrics import DURATION, counters
from fp8scope.traces.ncu_table import Row, in_base_units, rows_of
from fp8scope.traces.ranges import of_interest
from fp8scope.traces.trace import Kernel, SeenDevice, Trace

PROFILE_AGAIN = "profile again with ncu, and let it end by itself"
ALONE = "ncu ran every kernel alone, some of them several times: their times are no pass's"
_DEVICE = "device__attribute_"


def read_ncu_csv(path: Path) -> Trace:
    """The kernels of a CSV that ncu printed. Raises BadInput, and Missing where ncu itself could
    not read the counters.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})", "give a CSV of ncu") from error
    rows = rows_of(text, path)
    return _trace(path, [_kernel(row) for row in rows], _devices(rows))


def read_ncu_rep(path: Path) -> Trace:
    """The same of a `.ncu-rep`. Raises Missing without the package `ncu_report`, and BadInput."""
    try:
        package = importlib.import_module("ncu_report")
    except ImportError as error:
        raise Missing(
            f"{path}: reading it needs the package ncu_report",
            "pip install 'fp8scope[nsight]', or print it where ncu is: "
            f"ncu -i {path.name} --csv --page raw > {path.stem}.csv",
        ) from error
    try:
        report = package.load_report(str(path))
        actions = [action for span in report for action in span]
        rows = [_row(action) for action in actions]
    except Exception as error:  # what a foreign library raises of a broken file is not documented
        raise BadInput(f"{path}: ncu_report: {one_line(error)}", PROFILE_AGAIN) from error
    if not rows:
        raise BadInput(f"{path} is no report of ncu, or holds no kernels", PROFILE_AGAIN)
    return _trace(path, [_kernel(row) for row in rows], _devices(rows))


def _row(action: Any) -> Row:
    """An action of `ncu_report` as a row of the CSV."""
    values: dict[str, float] = {}
    texts: dict[str, str] = {}
    for name in action:
        metric = action[name]
        value = metric.value()
        if isinstance(value, str):
            texts[name] = value
        elif value is not None and math.isfinite(value):
            values[name] = in_base_units(float(value), metric.unit())
    texts["Kernel Name"] = action.name(action.NameBase_DEMANGLED)
    texts["Device"] = f"{values.get(f'{_DEVICE}device_index', 0):.0f}"
    texts["Grid Size"] = (
        f"{values['launch__grid_size']:.0f}" if "launch__grid_size" in values else ""
    )
    return Row(texts, values, _stacks(action.nvtx_state()))


def _stacks(state: Any) -> tuple[tuple[str, str], ...]:
    """(domain, range) of the ranges around a launch, outermost first: start/end ranges, which are
    the process's, then each domain's stack.
    """
    domains = [state[number] for number in state or ()]
    started = [(domain, name) for domain in domains for name in domain.start_end_ranges()]
    pushed = [
        (domain, domain.push_pop_range(depth).name())  # the plain list of names is sorted
        for domain in domains
        for depth in range(len(domain.push_pop_ranges()))
    ]
    return tuple((str(domain.name()), str(name)) for domain, name in (*started, *pushed))


def _kernel(row: Row) -> Kernel:
    return Kernel(
        name=row.texts["Kernel Name"],
        time_us=row.values.get(DURATION, 0.0) * 1e6,
        ranges=of_interest(row.stack),
        device=_device_index(row),
        blocks=_blocks(row.texts.get("Grid Size", "")),
        counters=counters(row.values),
    )


def _blocks(grid: str) -> int | None:
    """`(132, 1, 1)`, or the product."""
    sizes = [int(size) for size in grid.strip("() ").split(",") if size.strip().isdecimal()]
    return math.prod(sizes) if sizes else None


def _device_index(row: Row) -> int:
    text = row.texts.get("Device", "")
    return int(text) if text.isdecimal() else 0


def _devices(rows: Iterable[Row]) -> tuple[SeenDevice, ...]:
    """Each device once, as the first of its rows tells of it."""
    found: dict[int, SeenDevice] = {}
    for row in rows:
        index = _device_index(row)
        if index not in found:
            found[index] = _device(index, row)
    return tuple(found[index] for index in sorted(found))


def _device(index: int, row: Row) -> SeenDevice:
    def number(name: str) -> int | None:
        value = row.values.get(_DEVICE + name)
        return None if value is None else int(value)

    major, minor = number("compute_capability_major"), number("compute_capability_minor")
    if major is None or minor is None:
        first, _, second = row.texts.get("CC", "").partition(".")
        major, minor = (int(first), int(second)) if f"{first}{second}".isdecimal() else (None, None)
    name = row.texts.get(_DEVICE + "display_name", "")
    return SeenDevice(
        index=index,
        name=name,
        compute_capability=None if major is None or minor is None else (major, minor),
        sms=number("multiprocessor_count"),
        memory_bytes=number("total_memory"),
        mig="MIG" in name.split(),
    )


def _trace(path: Path, kernels: Sequence[Kernel], devices: tuple[SeenDevice, ...]) -> Trace:
    return Trace(
        tool="ncu",
        path=str(path),
        kernels=tuple(kernels),
        devices=devices,
        serialized=True,
        notes=(ALONE, *_lacking(kernels)),
    )


def _lacking(kernels: Sequence[Kernel]) -> Iterable[str]:
    """What none of the kernels was measured for."""
    seen: Mapping[Any, Any] = {counter: True for kernel in kernels for counter in kernel.counters}
    if not any(kernel.time_us for kernel in kernels):
        yield f"the report has no {DURATION}: the kernels' times are not known"
    if not any(counter.endswith("_ops") for counter in seen):
        yield "the report does not count the Tensor Cores' operations by format"
    if "sm_active" not in seen:
        yield "the report does not tell how busy the SMs were"
    if not any(kernel.ranges for kernel in kernels):
        yield "no kernel lies in a range: ncu ran without --nvtx, or nothing was tagged"
