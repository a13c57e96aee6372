"""What a group really multiplied, by the kernels in its ranges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fp8scope.artefacts.verdict import Judged, Realized
from fp8scope.judge.expected import ExpectedGroup
from fp8scope.judge.placing import EVIDENCE, Evidence, Launch

PLAIN = frozenset({"bf16", "fp16", "fp32"})
"""Not quantized."""


def realized(group: ExpectedGroup, launches: Sequence[Launch]) -> tuple[Realized, Evidence]:
    """What it ran in, over all phases, and the weakest evidence that was needed.

    Only GEMMs count: kernels that quantize the input, or add up what a GEMM left in parts, take
    time and have no say. A GEMM of which nothing is known leaves the whole unknown, but where the
    others already run in something else than what was planned.
    """
    if not launches:
        return "not_seen", "none"
    gemms = _gemms(launches)
    known = [launch for launch in gemms if _class(launch) != "unknown"]
    kinds = {_class(launch) for launch in known}
    if len(kinds) > 1:
        return "mixed", _weakest(known)
    found = _one(group, kinds.pop(), known) if known else "unknown"
    whole = len(known) == len(gemms) and not missing(group, launches)
    if whole or (known and judged(group, found) == "not_as_planned" and group.planned != "mixed"):
        return found, _weakest(known)
    return "unknown", "none"


def missing(group: ExpectedGroup, launches: Iterable[Launch]) -> tuple[str, ...]:
    """Members that have no GEMM, where an engine runs them one by one."""
    seen = {launch.module for launch in launches if launch.may_be_gemm}
    if not seen or not seen <= set(group.members):
        return ()  # the fused module itself
    return tuple(name for name in group.members if name not in seen)


def _gemms(launches: Sequence[Launch]) -> list[Launch]:
    """In each phase by itself: what is known to be one, else whatever may be."""
    found = []
    for phase in {launch.phase for launch in launches}:
        of_phase = [launch for launch in launches if launch.phase == phase]
        gemms = [launch for launch in of_phase if launch.is_gemm]
        found += gemms or [launch for launch in of_phase if launch.may_be_gemm]
    return found


def _one(group: ExpectedGroup, kind: str, gemms: Sequence[Launch]) -> Realized:
    if kind == "fp8":
        return "fp8"
    if kind == "other":
        return "other"
    weights_fp8 = group.stored_fp8 or any(launch.weight_only for launch in gemms)
    return "weight_only" if weights_fp8 else "bf16"


def judged(group: ExpectedGroup, found: Realized) -> Judged:
    """Whether it ran as planned, if that can be told."""
    if found in {"unknown", "not_seen"} or group.planned == "other":
        return "not_judged"
    if group.expected:
        same = found == "fp8" and group.stored == group.planned
    else:
        same = found == group.planned  # "bf16", or "mixed" as it is stored
    return "as_planned" if same else "not_as_planned"


def _class(launch: Launch) -> str:
    if launch.weight_only or launch.precision in PLAIN:
        return "plain"
    return launch.precision if launch.precision in {"fp8", "unknown"} else "other"


def _weakest(gemms: Iterable[Launch]) -> Evidence:
    return max((launch.evidence for launch in gemms), key=EVIDENCE.index)
