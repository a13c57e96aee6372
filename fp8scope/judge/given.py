"""Reports that cannot be judged together, or are of the wrong model: refused before judging."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from fp8scope.errors import BadInput
from fp8scope.judge.placing import Placed
from fp8scope.judge.sight import Sight

_GIVE = "give the BF16 model, or its report"


def check_given(sight: Sight) -> None:
    """Raises BadInput for reports of one tool that do not add up, and a quantized baseline."""
    _check_once(sight.reports)
    _check_once(sight.baseline_reports)
    for report in sight.baseline_reports:
        _check_plain(report)
    record = sight.baseline.record if sight.baseline else None
    if record is not None and record.held:
        name, treatment = next(iter(record.held.items()))
        what = f"the baseline's run holds {name} in {treatment}: it is not of the BF16 model"
        raise BadInput(what, _GIVE)


def _check_once(reports: Sequence[Placed]) -> None:
    """Times are taken from one timeline, and each counter from one report. Of one tool, timelines
    of different phases add up, and so do reports of kernels one by one (ncu) that count different
    things.
    """
    for one, other in combinations(reports, 2):
        if one.trace.tool != other.trace.tool or not _overlap(one, other):
            continue
        kind = "times are"
        if one.trace.serialized and other.trace.serialized:
            if not (both := _counters(one) & _counters(other)):
                continue
            kind = f"{min(both)} is"
        what = f"{one.trace.path} and {other.trace.path} are two reports by {one.trace.tool}"
        raise BadInput(f"{what}, and {kind} taken from one", "give one of them")


def _overlap(one: Placed, other: Placed) -> bool:
    """Whether both saw the same phase, or one tells none apart."""
    first, second = ({x.phase for x in each.launches} - {"all"} for each in (one, other))
    return not first or not second or bool(first & second)


def _counters(report: Placed) -> set[str]:
    return {counter for launch in report.launches for counter in launch.kernel.counters}


def _check_plain(report: Placed) -> None:
    """No GEMM of a linear is in FP8 or weight-only; without ranges none at all is."""
    for launch in report.launches:
        if not launch.is_gemm or (launch.owner is None and report.has_modules):
            continue
        if launch.precision == "fp8" or launch.weight_only:
            where = f"in {launch.owner}" if launch.owner else f"in {launch.kernel.name[:60]}"
            does = "runs weight-only kernels" if launch.weight_only else "multiplies FP8"
            what = f"{report.trace.path} {does} {where}: it is not of the BF16 model"
            raise BadInput(what, _GIVE)
