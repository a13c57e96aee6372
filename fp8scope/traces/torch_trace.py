"""Chrome traces of torch.profiler: kernels, the ranges and operators that launched them.

A kernel's launch is the runtime call of its `correlation`, on a thread of the CPU; the
`record_function` ranges of that thread that are open then are the kernel's. A trace of a CPU has
no kernels: there the operators that do the arithmetic stand for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fp8scope.errors import BadInput
from fp8scope.traces.ranges import of_interest
from fp8scope.traces.torch_events import Event, dtypes, open_at, read_events
from fp8scope.traces.trace import DOMAIN, Kernel, Range, SeenDevice, Trace

PREFIX = f"{DOMAIN}:"
"""Before the names of our ranges: it plays the part of the NVTX domain."""
LAUNCHES = {"cuda_runtime", "cuda_driver", "runtime"}
ANNOTATIONS = {"user_annotation", "cpu_op"}  # old versions of torch wrote ranges as operators
WHOLE = {
    "aten::_scaled_mm", "aten::_scaled_mm_v2", "aten::_scaled_grouped_mm",
    "aten::_scaled_grouped_mm_v2", "aten::scaled_dot_product_attention",
}  # fmt: skip
"""Operators that are counted whole, whatever they call."""
GEMMS = {
    "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addmv", "aten::mv",
    "aten::_int_mm", "aten::_grouped_mm", "aten::linear", "aten::matmul", "aten::einsum",
    "mkldnn::_linear_pointwise", "aten::mkldnn_linear",
}  # fmt: skip
"""Operators of which the innermost is counted: `aten::linear` calls `aten::addmm`."""


def read_torch_trace(path: Path) -> Trace:
    """The kernels of a trace.json or trace.json.gz, or the operators of one of a CPU.

    Raises BadInput of a file that is cut off, of another kind, or where nothing was recorded.
    """
    events, head = read_events(path)
    kernels = [event for event in events if event.category == "kernel"]
    if not kernels and _launched(events):
        raise BadInput(
            f"{path} has launches but no kernels: the profiler could not record the GPU",
            "profile with ProfilerActivity.CUDA, and with no other profiler around it",
        )
    spans = _spans(events, ANNOTATIONS)
    found = _on_gpu(events, kernels, spans) if kernels else _on_cpu(events, spans)
    if not found:
        raise BadInput(f"{path} holds no kernels and no operators", "profile while the model runs")
    devices = _devices(head, {kernel.device for kernel in found} if kernels else set())
    return Trace(
        tool="torch",
        path=str(path),
        kernels=tuple(found),
        ranges=_ranges(spans),
        devices=devices,
        on_gpu=bool(kernels),
        notes=tuple(_notes(events, found, devices, on_gpu=bool(kernels))),
    )


def _launched(events: Iterable[Event]) -> bool:
    return any(event.category in LAUNCHES and "Launch" in event.name for event in events)


def _spans(events: Iterable[Event], categories: set[str]) -> list[Event]:
    """Our ranges; where there are none, whatever else was annotated."""
    marked = [event for event in events if event.category in categories]
    ours = [event for event in marked if event.name.startswith(PREFIX)]
    others = [
        e for e in marked if e.category != "cpu_op" and not e.name.startswith("ProfilerStep#")
    ]
    return ours or others


def _names(opened: Iterable[Event]) -> tuple[str, ...]:
    """Names of the ranges among these, without our prefix, outermost first."""
    return of_interest(
        (DOMAIN, event.name.removeprefix(PREFIX))
        if event.name.startswith(PREFIX)
        else ("", event.name)
        for event in opened
    )


def _ranges(spans: Sequence[Event]) -> tuple[Range, ...]:
    found = [
        Range(_names([span])[0], span.start_us, span.end_us, _names(around))
        for span, around in open_at(spans, spans)
    ]
    return tuple(sorted(found, key=lambda item: (item.start_us, -item.end_us)))


def _on_gpu(
    events: Sequence[Event], kernels: Sequence[Event], spans: Sequence[Event]
) -> list[Kernel]:
    """Kernels with the ranges of their launch, in the order of their start."""
    launches = [e for e in events if e.category in LAUNCHES and "correlation" in e.args]
    ranges = {
        launch.args["correlation"]: _names(opened) for launch, opened in open_at(spans, launches)
    }
    operators = [event for event in events if event.category == "cpu_op" and dtypes(event)]
    operands = {
        launch.args["correlation"]: dtypes(opened[-1])
        for launch, opened in open_at(operators, launches)
        if opened
    }
    by_id = {op.args["External id"]: dtypes(op) for op in operators if "External id" in op.args}
    # where the launch itself was not recorded, torch's own projection to the GPU's streams tells
    projected = _spans(events, {"gpu_user_annotation"})
    lost = [kernel for kernel in kernels if kernel.args.get("correlation") not in ranges]
    shown = {id(kernel): _names(opened) for kernel, opened in open_at(projected, lost)}
    return [
        Kernel(
            name=kernel.name,
            time_us=kernel.time_us,
            ranges=ranges.get(kernel.args.get("correlation"), shown.get(id(kernel), ())),
            start_us=kernel.start_us,
            device=_whole(kernel.args.get("device")) or 0,
            blocks=_blocks(kernel),
            operands=by_id.get(kernel.args.get("External id"))
            or operands.get(kernel.args.get("correlation"), ()),
        )
        for kernel in sorted(kernels, key=lambda event: event.start_us)
    ]


def _on_cpu(events: Sequence[Event], spans: Sequence[Event]) -> list[Kernel]:
    """Operators that multiply, each once: those counted whole, else the innermost."""
    operators = [e for e in events if e.category == "cpu_op" and e.name in WHOLE | GEMMS]
    inner: set[int] = set()
    outer: set[int] = set()
    for operator, around in open_at(operators, operators):
        if any(other.name in WHOLE for other in around):
            inner.add(id(operator))
        else:
            outer.update(id(other) for other in around)
    counted = [operator for operator in operators if id(operator) not in inner | outer]
    return [
        Kernel(
            name=operator.name,
            time_us=operator.time_us,
            ranges=_names(opened),
            start_us=operator.start_us,
            operands=dtypes(operator),
        )
        for operator, opened in sorted(open_at(spans, counted), key=lambda pair: pair[0].start_us)
    ]


def _blocks(kernel: Event) -> int | None:
    grid = kernel.args.get("grid")
    sizes = [_whole(size) for size in grid] if isinstance(grid, list) else []
    known = [size for size in sizes if size is not None]
    return math.prod(known) if known else None


def _whole(value: Any) -> int | None:
    """An int, also of a string; None of anything else."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _devices(head: Mapping[str, Any], used: set[int]) -> tuple[SeenDevice, ...]:
    """Those that ran kernels, with what `deviceProperties` says of them."""
    rows = head.get("deviceProperties")
    told = {_whole(row.get("id")): row for row in rows or () if isinstance(row, dict)}
    return tuple(_device(index, told.get(index, {})) for index in sorted(used))


def _device(index: int, row: Mapping[str, Any]) -> SeenDevice:
    major, minor = _whole(row.get("computeMajor")), _whole(row.get("computeMinor"))
    name = str(row.get("name", ""))
    return SeenDevice(
        index=index,
        name=name,
        compute_capability=None if major is None or minor is None else (major, minor),
        sms=_whole(row.get("numSms")),
        memory_bytes=_whole(row.get("totalGlobalMem")),
        mig="MIG" in name.split(),
    )


def _notes(
    events: Sequence[Event],
    kernels: Sequence[Kernel],
    devices: Sequence[SeenDevice],
    *,
    on_gpu: bool,
) -> Iterable[str]:
    yield "torch.profiler reads no hardware counters"
    if on_gpu:
        yield from _spread(kernels, devices)
    elif _emulated(events):
        yield "the CPU multiplied FP8 operands as FP32: _scaled_mm called aten::mm with float32"
    outside = sum(not kernel.ranges for kernel in kernels)
    if outside:
        what = "kernels" if on_gpu else "operators"
        yield f"{outside} of {len(kernels)} {what} were launched outside of every range"
    if not any(kernel.operands for kernel in kernels):
        yield "the operators' dtypes were not recorded: profile with record_shapes=True"


def _spread(kernels: Sequence[Kernel], devices: Sequence[SeenDevice]) -> Iterable[str]:
    """A kernel of B blocks occupies at most B of the SMs: a bound, not a measurement."""
    sms = {device.index: device.sms for device in devices}
    sized = [(k, sms.get(k.device) or 0) for k in kernels if k.blocks and sms.get(k.device)]
    total = sum(kernel.time_us for kernel, _ in sized)
    if total:
        busy = sum(min((k.blocks or 0) / count, 1.0) * k.time_us for k, count in sized)
        yield (
            f"by their grids the kernels can have used at most {busy / total:.0%} of the SMs "
            "(persistent kernels always count as all of them)"
        )


def _emulated(events: Sequence[Event]) -> bool:
    """Whether an FP8 GEMM was computed by a GEMM of another format within it."""
    scaled = [event for event in events if event.name.startswith("aten::_scaled_")]
    gemms = [event for event in events if event.name in GEMMS and "float32" in dtypes(event)]
    return any(
        any(other.name in WHOLE and "float8" in " ".join(dtypes(other)) for other in around)
        for _, around in open_at(scaled, gemms)
    )
