"""A verdict's sentences: the summary, what could not be seen, and what a person should know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fp8scope.artefacts.verdict import Compared, Gate, Group, Hardware, PhaseName, Ran
from fp8scope.judge.placing import Placed
from fp8scope.judge.sight import Sight
from fp8scope.judge.speed import Part
from fp8scope.traces.record import RunRecord

_AS: Mapping[Part, str] = {"prefill": "prefill", "decode": "decode", "whole": "the whole"}


def summary(
    gates: Sequence[Gate],
    speedup: Mapping[Part, Compared],
    whole: Mapping[PhaseName, Hardware],
) -> str:
    """The first gate's words and those on the metadata, then speed, then what holds it up."""
    first = (gates[0], *(gate for gate in gates if gate.name == "metadata"))
    parts = [gate.words.rstrip(".") for gate in first]
    fast = [
        f"{_AS[part]} {each.measured:.2f} times as fast as BF16"
        + (f" (at most {each.estimated:.2f} by the roofline)" if each.estimated else "")
        for part, each in speedup.items()
        if each.measured is not None
    ]
    parts += [", ".join(fast)] if fast else []
    bounds = {"compute": "compute-bound", "memory": "memory-bound", "launch": "launch-bound"}
    held = [
        f"{phase} is {bounds[each.bound]}"
        for phase, each in whole.items()
        if each.bound in bounds and phase != "all"
    ]
    parts += [", ".join(held)] if held else []
    return f"{'; '.join(parts)}."


def unseen(
    sight: Sight,
    whole: Mapping[PhaseName, Hardware],
    groups: Sequence[Group],
    speedup: Mapping[Part, Compared],
    *,
    timed: bool,
) -> tuple[str, ...]:
    """What could not be measured, and why."""
    return (
        *_devices(sight.ran, sight.reports, whole),
        *_passes(sight.reports, whole),
        *_groups(groups),
        *_speeds(speedup, sight.differs, timed=timed),
    )


def _devices(
    ran: Ran, reports: Sequence[Placed], whole: Mapping[PhaseName, Hardware]
) -> Iterator[str]:
    if ran.device == "cpu":
        yield (
            "It ran on a CPU: SMs, tensor cores, memory bandwidth and FP8 operations were not "
            "measured, formats are those of the operands that torch was given, and times say "
            "nothing of a GPU."
        )
        return
    if not reports:
        yield "No profiler watched: what the GPU multiplied is not known."
        return
    missing = {
        "SM activity": all(each.sm_active is None for each in whole.values()),
        "tensor core activity": all(each.tensor_active is None for each in whole.values()),
        "DRAM throughput": all(each.dram_throughput is None for each in whole.values()),
        "FP8 operations": all(each.fp8_ops is None for each in whole.values()),
    }
    if names := [name for name, is_missing in missing.items() if is_missing]:
        yield f"Not measured: {', '.join(names)}. ncu counts them, where it may read counters."
    if ran.mig:
        yield "It ran on a slice of a GPU (MIG), whose peak rates are not in the table: no shares."
    elif ran.gpu_known_as is None:
        name = ran.gpu or "The GPU"
        yield f"{name} is not in the table of GPUs: shares of its peak rates are not known."


def _passes(reports: Sequence[Placed], whole: Mapping[PhaseName, Hardware]) -> Iterator[str]:
    if not reports:
        return
    if not any(report.has_modules for report in reports):
        yield "No report has ranges of modules: nothing is said of single layers."
        return
    phases = [name for name in ("prefill", "decode") if name not in whole]
    if phases:
        yield f"No module's kernels lie in a range called {' or '.join(phases)}."
    elif all(report.trace.serialized for report in reports):
        yield "ncu ran each kernel alone: times are those of kernels, not of a pass."


def _groups(groups: Sequence[Group]) -> Iterator[str]:
    unknown = [each.name for each in groups if each.realized == "unknown"]
    if unknown:
        yield f"What {_few(unknown)} multiplied, nothing tells."
    missing = [each.name for each in groups if each.realized == "not_seen"]
    if missing and len(missing) < len(groups):
        yield f"No kernel of {_few(missing)} is in a report."


def _speeds(speedup: Mapping[Part, Compared], differs: str, *, timed: bool) -> Iterator[str]:
    if differs:
        yield f"The baseline ran {differs}: nothing is compared."
    if not timed:
        yield "No run without a profiler was timed: no time to the first token, and none per token."
    elif not differs and not any(each.measured for each in speedup.values()):
        yield "No baseline was timed: how much faster FP8 is was not measured."


def notes(
    ran: Ran, record: RunRecord | None, baseline: RunRecord | None, reports: Sequence[Placed]
) -> tuple[str, ...]:
    """What the engine and the reports say of themselves, how devices were counted, and whether the
    baseline ran in the same way.
    """
    said = list(record.notes) if record else []
    if record and baseline and _way(record) != _way(baseline):
        said.append(
            f"The FP8 build ran {_way(record)}, the baseline {_way(baseline)}: the speed-up is not "
            "that of FP8 alone."
        )
    for report in reports:
        said += report.trace.notes
    if any(len(report.devices) > 1 for report in reports):
        said.append(
            f"Kernels ran on {ran.devices} GPUs: times are means over those that a group ran on."
        )
    return tuple(dict.fromkeys(said))


def _way(record: RunRecord) -> str:
    words = [("compiled", record.compiled), ("with CUDA graphs", record.cuda_graphs)]
    return " ".join(word for word, is_so in words if is_so) or "eagerly"


def _few(names: Sequence[str], shown: int = 3) -> str:
    left = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {left} more groups" if left > 0 else "")
