"""The rows of a verdict that every view shows: gates, groups that are not as planned, kinds of
layers, and speed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fp8scope.artefacts.verdict import Gate, Group, Percentiles, PhaseName, Speed, Verdict
from fp8scope.core.words import common_prefix, number, percent, short_name, times
from fp8scope.report.plan import capital
from fp8scope.report.sheet import Sheet, sheet

Part = Literal["prefill", "decode", "whole"]
OUTCOMES = {"passed": "passed", "failed": "FAILED", "not_measured": "not measured"}
REALIZED = {"weight_only": "weight-only", "not_seen": "not seen"}
GATES = {
    "precision": "FP8",
    "kept_in_bf16": "BF16",
    "gemm_precision": "GEMMs",
    "metadata": "metadata",
    "sm_active": "SMs",
    "speedup": "speed",
}
PASSES: dict[PhaseName, str] = {
    "prefill": "Prefill of the batch, by layers",
    "decode": "A decode step, by layers",
    "all": "The whole report, by layers",
}
_KIND = re.compile(r"^.*?\.\d+\.")
_LAYER = re.compile(r"\.\d+(?=\.|$)")


@dataclass(frozen=True)
class Fault:
    """A group that is not as planned, or that is to run in FP8 and could not be judged."""

    name: str
    planned: str
    ran: str
    kernel: str
    cause: str
    remedy: str


def gate_name(gate: Gate) -> str:
    """What it is about, in a word."""
    return GATES[gate.name]


def compares(verdict: Verdict) -> bool:
    """Whether times as fast as the baseline mean anything: a CPU's do not."""
    return verdict.ran.device != "cpu"


def faults(verdict: Verdict) -> list[Fault]:
    """What is wrong before what is not known, in model order."""
    wrong = [group for group in verdict.groups if group.judged == "not_as_planned"]
    unknown = [g for g in verdict.groups if g.judged == "not_judged" and g.expected]
    return [
        Fault(
            name=group.name,
            planned=group.planned,
            ran=_ran(group),
            kernel=_kernel(group),
            cause=group.cause or "",
            remedy=group.remedy or "",
        )
        for group in (*wrong, *unknown)
    ]


def same_faults(found: Iterable[Fault]) -> list[tuple[Fault, int]]:
    """One for all that differ in the layer alone, and how many they are."""
    alike: dict[tuple[str, ...], list[Fault]] = {}
    for fault in found:
        parts = (fault.name, fault.ran, fault.cause, fault.remedy)
        alike.setdefault(tuple(_LAYER.sub(".*", part) for part in parts), []).append(fault)
    return [(same[0], len(same)) for same in alike.values()]


def layers_sheets(verdict: Verdict, *, whole: bool) -> list[Sheet]:
    """One per phase: by kind of layer, or each group by itself, what it ran in, µs of a pass over
    all of them, times as fast as the baseline, and shares of the GPU's peak rates.
    """
    prefix = common_prefix(group.name for group in verdict.groups)
    parts: dict[tuple[str, str, str], list[Group]] = {}
    for group in verdict.groups:
        name = group.name if whole else _KIND.sub("", group.name)
        ran = REALIZED.get(group.realized, group.realized)
        parts.setdefault((short_name(name, prefix), group.planned, ran), []).append(group)
    header = ["", "", "planned", "ran in", "µs", "× BF16", "of peak", "bound"]
    return [
        _filled(
            PASSES[phase],
            header,
            [
                [
                    kind[0],
                    f"{len(same)}×" if len(same) > 1 else "",
                    *kind[1:],
                    *_cells(same, phase, compares=compares(verdict)),
                ]
                for kind, same in parts.items()
            ],
        )
        for phase in PASSES
        if phase in verdict.hardware
    ]


def speed_sheet(verdict: Verdict) -> Sheet:
    """Without a profiler: the run, the baseline, and what the roofline allows."""
    run, before = verdict.speed, verdict.baseline_speed or Speed()
    ways: tuple[tuple[str, Part | None, Percentiles | None, Percentiles | None], ...] = (
        ("first token, ms", "prefill", run.ttft_ms, before.ttft_ms),
        ("each token, ms", "decode", run.tpot_ms, before.tpot_ms),
        ("request, ms", None, run.latency_ms, before.latency_ms),
    )
    rows = [
        [name, *_spread(own), *_spread(old)[:1], *_ratios(verdict, part)]
        for name, part, own, old in ways
        if own is not None
    ]
    if run.tokens_per_s is not None:
        rates = [number(rate) if rate else "" for rate in (run.tokens_per_s, before.tokens_per_s)]
        rows.append(["tokens/s", rates[0], "", rates[1], *_ratios(verdict, "whole")])
    if run.mbu is not None:
        shares = [percent(mbu) if mbu else "" for mbu in (run.mbu, before.mbu)]
        rows.append(["decode's MBU", shares[0], "", shares[1], "", ""])
    header = ["", "p50", "p95", "BF16's", "×", "at most ×"]
    about = "; at most: by the roofline" if any(row[5] for row in rows) else ""
    return _filled(f"Speed without a profiler{about}", header, rows)


def setting(verdict: Verdict) -> list[str]:
    """On what and how, a sentence each."""
    ran = verdict.ran
    where = ran.gpu or {"cpu": "a CPU", "cuda": "a GPU"}.get(ran.device, "a device unknown")
    many = f"{ran.devices}× " if ran.devices > 1 else ""
    how = [("compiled", ran.compiled), ("CUDA graphs", ran.cuda_graphs)]
    words = ", ".join(word for word, said in how if said)
    engine = f"{ran.engine} {ran.engine_version}".strip() or "engine not told (no run.json),"
    said = [f"{capital(engine)} on {many}{where}" + (f" ({words})" if words else "")]
    if ran.batch is not None:
        said.append(f"{ran.batch} prompts of {ran.prompt_len} tokens, {ran.gen_len} tokens each")
    said.append(f"seen by {', '.join(ran.profilers) or 'no profiler'}")
    return said


def cache_sentence(verdict: Verdict) -> str:
    """What the KV cache was, in all layers together; "" without one."""
    if not verdict.kv_cache:
        return ""
    words = {"fp8": "FP8", "bf16": "BF16", "unknown": "unknown, the engine does not say"}
    planned, ran = (
        words[min(found)] if len(found) == 1 else "mixed"
        for found in (
            {cache.planned for cache in verdict.kv_cache},
            {cache.ran for cache in verdict.kv_cache},
        )
    )
    return (
        f"KV cache: {ran}, as planned" if ran == planned else f"KV cache: {ran}, planned {planned}"
    )


def _ran(group: Group) -> str:
    """With its scales where only these are not as planned."""
    if group.realized == "fp8" and group.expected and group.stored.startswith("fp8"):
        return group.stored
    return REALIZED.get(group.realized, group.realized)


def _kernel(group: Group) -> str:
    uses = [use for phase in group.phases.values() for use in phase.kernels]
    gemms = [use for use in uses if use.role == "gemm"] or uses
    wrong = [use for use in gemms if use.precision != "fp8"] or gemms
    return max(wrong, key=lambda use: use.time_us).name if wrong else ""


def _cells(groups: Sequence[Group], phase: PhaseName, *, compares: bool) -> list[str]:
    found = [one for group in groups for name, one in group.phases.items() if name == phase]
    if not found:
        return ["", "", "", ""]
    time_us = sum(one.time_us for one in found)
    before = [one.baseline_time_us for one in found]
    known = [us for us in before if us is not None]
    is_known = compares and time_us and len(known) == len(found)
    ratio = times(sum(known) / time_us) if is_known else ""
    weights = [(one.time_us, one.hardware.of_peak) for one in found]
    bounds = {one.hardware.bound for one in found} - {"unknown"}
    bound = bounds.pop() if len(bounds) == 1 else "several" if bounds else ""
    return [
        f"{time_us:,.0f}" if time_us >= 100 else f"{time_us:.3g}",
        ratio,
        _share(weights),
        bound,
    ]


def _share(pairs: Iterable[tuple[float, float | None]]) -> str:
    """The mean weighted by time, over those that are known."""
    known = [(us, value) for us, value in pairs if value is not None and us]
    total = sum(us for us, _ in known)
    return percent(sum(us * value for us, value in known) / total) if total else ""


def _spread(of: Percentiles | None) -> list[str]:
    return [number(of.p50), number(of.p95)] if of is not None else ["", ""]


def _ratios(verdict: Verdict, part: Part | None) -> list[str]:
    """Times as fast as the baseline, and as the roofline allows."""
    known = verdict.speedup if compares(verdict) else {}
    found = known.get(part) if part is not None else None
    values = (found.measured, found.estimated) if found is not None else (None, None)
    return [times(value) if value else "" for value in values]


def _filled(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Sheet:
    """Without the columns that are empty in all rows."""
    kept = [at for at in range(len(header)) if at == 0 or any(row[at] for row in rows)]
    return sheet(title, [header[at] for at in kept], [[row[at] for at in kept] for row in rows])
