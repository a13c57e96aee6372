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
    time and have no say. A GEMM of which nothing is known leaves the whole unknown, but where
    others are known to differ already.
    """
    if not launches:
        return "not_seen", "none"
    gemms = [launch for launch in launches if launch.is_gemm]
    gemms = gemms or [launch for launch in launches if launch.may_be_gemm]
    known = [launch for launch in gemms if _class(launch) != "unknown"]
    kinds = {_class(launch) for launch in known}
    if len(kinds) > 1:
        return "mixed", _weakest(known)
    if not known or len(known) < len(gemms) or missing(group, launches):
        return "unknown", "none"
    return _one(group, kinds.pop(), known), _weakest(known)


def missing(group: ExpectedGroup, launches: Iterable[Launch]) -> tuple[str, ...]:
    """Members that have no GEMM, where an engine runs them one by one."""
    seen = {launch.module for launch in launches if launch.may_be_gemm}
    if not seen or not seen <= set(group.members):
        return ()  # the fused module itself
    return tuple(name for name in group.members if name not in seen)


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
