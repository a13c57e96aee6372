"""What must hold. A gate that could not be measured neither passes nor fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from fp8scope.artefacts.verdict import Compared, Gate, Group, Hardware, Outcome, Total
from fp8scope.judge.causes import words as treatment_words
from fp8scope.judge.expected import Expected

SM_ACTIVE = 0.75
"""Least share of cycles in which an SM has a warp, in the GEMMs of prefill, unless asked otherwise.
Published guides ask for it of "SM efficiency".
"""
NAMED = 3
"""Groups that a gate names at most."""
SLACK = 0.9
"""Of the FP8 launches that a checkpoint leads to: with fewer some linear surely fell back."""
_LATENT = "kv_b_proj"
"""MLA's: engines take it apart, and multiply queries and outputs with it in BF16."""


@dataclass(frozen=True)
class Limits:
    """`sm_active`: least share of cycles in which an SM has a warp, in the GEMMs of prefill.
    `speedup`: least times as fast as the baseline; None asks nothing.
    """

    sm_active: float = SM_ACTIVE
    speedup: float | None = None


def precision_gate(groups: Sequence[Group], outside: int = 0, *, on_cpu: bool) -> Gate:
    """Every group that is to run in FP8 does. A group that could not be judged keeps the gate from
    passing, and does not fail it; so do GEMMs `outside` of all ranges that are not known to be in
    FP8 (`sight.outside`). A CPU shows what was asked of it.
    """
    expected = [group for group in groups if group.expected]
    judged = [group for group in expected if group.judged != "not_judged"]
    right = [group for group in judged if group.judged == "as_planned"]
    wrong = [group for group in judged if group.judged != "as_planned"]
    unseen = [group for group in expected if group.judged == "not_judged"]
    count = f"{len(right)} of {len(expected)} fused groups that are to run in FP8 do"
    count += " as planned" if any(group.realized == "fp8" for group in wrong) else ""
    count += ", by the operands that a CPU was given" if on_cpu and right else ""
    count += _where(judged)
    value = len(right) / len(judged) if judged else None
    if not expected:
        words = "Nothing is to run in FP8: the checkpoint and its plan hold none."
        return Gate(name="precision", outcome="not_measured", value=None, limit=1.0, words=words)
    if wrong:
        others = f"; of {len(unseen)} nothing is known" if unseen else ""
        words = f"{count}; not {_named(wrong)}{others}."
    elif unseen:
        words = f"{count}; of {len(unseen)} nothing is known: {_named(unseen)}."
    else:
        words = f"{'All' if len(right) > 1 else 'The'} {count.partition(' of ')[2]}."
    if outside:
        words += f" {outside:,} GEMM launches lie in no module's range, and may be any layer's."
    outcome: Outcome = "failed" if wrong else "not_measured" if unseen or outside else "passed"
    untagged = "record without CUDA graphs and without compiling" if outside else None
    remedy = next((group.remedy for group in (*wrong, *unseen)), untagged)
    return Gate(
        name="precision", outcome=outcome, value=value, limit=1.0, words=words, remedy=remedy
    )


def kept_gate(groups: Sequence[Group]) -> Gate | None:
    """What the plan keeps in BF16 is not quantized. None where it keeps nothing."""
    kept = [group for group in groups if group.planned == "bf16"]
    if not kept:
        return None
    judged = [group for group in kept if group.judged != "not_judged"]
    wrong = [group for group in judged if group.judged != "as_planned"]
    value = 1 - len(wrong) / len(judged) if judged else None
    unseen = len(kept) - len(judged)
    if wrong:
        words = f"{len(wrong)} of {len(kept)} groups that stay in BF16 do not: {_named(wrong)}."
    elif unseen:
        words = f"Of {unseen} of the {len(kept)} groups that stay in BF16 nothing is known."
    else:
        words = (
            f"All {len(kept)} groups that stay in BF16 do."
            if len(kept) > 1
            else (f"{kept[0].name} stays in BF16.")
        )
    outcome: Outcome = "failed" if wrong else "not_measured" if unseen else "passed"
    remedy = wrong[0].remedy if wrong else None
    return Gate(
        name="kept_in_bf16", outcome=outcome, value=value, limit=1.0, words=words, remedy=remedy
    )


def metadata_gate(expected: Expected) -> Gate | None:
    """No metadata says of a linear in FP8 that it is not quantized. None where none does: an engine
    that goes by the tensors runs such a file, and others load its codes as numbers.
    """
    wrong = expected.denied
    if not wrong:
        return None
    files = list(dict.fromkeys(each.file for each in wrong))
    names = list(dict.fromkeys(each.name for each in wrong))
    left = len(names) - NAMED
    named = ", ".join(names[:NAMED]) + (f" and {left} more linears" if left > 0 else "")
    one = len(files) == 1
    says = f"list{'s' if one else ''} {named} as not quantized"
    if not any(each.is_listed for each in wrong):
        says = f"name{'s' if one else ''} {named} in no target"
    its = "its" if len(names) == 1 else "their"
    words = f"{' and '.join(files)} {says}, and {its} weights are FP8: engines load the codes as"
    return Gate(
        name="metadata", outcome="failed", value=float(len(names)), limit=0.0,
        words=f"{words} numbers.",
        remedy=f"fp8scope doctor {quote(expected.folder)}; then correct the metadata",
    )  # fmt: skip


def launches_gate(expected: Expected, gemms: Mapping[str, Total]) -> Gate:
    """In place of both, where nothing says which kernel is whose: launches by precision.

    An engine that fuses q/k/v and gate/up launches one GEMM per group, another one per linear; the
    lower share of both is what the checkpoint leads to. Somewhat less (`SLACK`) may be a layer that
    fell back, or matmuls of attention: neither passed nor failed.
    """
    lead = _least_share(expected)
    if not lead:
        words = "Nothing is to run in FP8: the checkpoint and its plan hold none."
        return Gate(name="gemm_precision", outcome="not_measured", value=None, limit=0, words=words)
    calls = {kind: total.calls for kind, total in gemms.items()}
    fp8, unknown, widened = (calls.get(kind, 0.0) for kind in ("fp8", "unknown", "weight_only"))
    every = sum(calls.values())
    known = every - unknown
    remedy = "verify with the native engine, or a report with ranges of modules, to see which"
    caveat = "which layer a launch belongs to, the report does not say"
    if not known:
        words = f"No GEMM whose precision can be told is in the report; {caveat}."
        return Gate(
            name="gemm_precision", outcome="not_measured", value=None, limit=lead, words=words
        )
    words = f"{fp8:,.0f} of {known:,.0f} GEMM launches multiply FP8 ({fp8 / known:.0%})"
    if widened:
        words = f"{widened:,.0f} GEMM launches are weight-only; {words}; {caveat}."
    else:
        words += f", where the checkpoint leads to {lead:.0%} or more; {caveat}."
    # what is unknown may be FP8, or not
    low, high = fp8 / every, (fp8 + unknown) / every
    outcome: Outcome = "passed" if low >= lead else "not_measured"
    if widened or high < lead * SLACK:
        outcome = "failed"
    if unknown:
        words += f" Of {unknown:,.0f} more nothing tells in what."
    return Gate(
        name="gemm_precision", outcome=outcome, value=fp8 / known, limit=lead, words=words,
        remedy=None if outcome == "passed" else remedy,
    )  # fmt: skip


def sm_gate(
    prefill: Hardware | None, limit: float, groups: Sequence[Group] = (), *, loosely: bool
) -> Gate:
    """SMs have work in the GEMMs of prefill. That they do says nothing of FP8: a BF16 fallback
    keeps them as busy.
    """
    value = prefill.sm_active if prefill is not None else None
    if value is None:
        words = "How busy the SMs are in the GEMMs of prefill was not measured."
        remedy = "record it on a GPU with --profiler ncu, or nsys with GPU metrics"
        return Gate(
            name="sm_active", outcome="not_measured", value=None, limit=limit, words=words,
            remedy=remedy,
        )  # fmt: skip
    where = f"the GEMMs of prefill{_counted(groups)}"
    where = "prefill, gaps and other kernels included" if loosely else where
    words = f"SMs have work in {value:.0%} of the cycles in {where}; at least {limit:.0%} is asked."
    if value >= limit:
        return Gate(name="sm_active", outcome="passed", value=value, limit=limit, words=words)
    if loosely:
        words += " In the GEMMs alone it may be more."
        outcome: Outcome = "not_measured"
        remedy = "count it per kernel: --profiler ncu"
    else:
        outcome, remedy = "failed", _busier(prefill)
    return Gate(
        name="sm_active", outcome=outcome, value=value, limit=limit, words=words, remedy=remedy
    )


def speed_gate(whole: Compared | None, limit: float | None, *, on_cpu: bool) -> Gate | None:
    """Times as fast as the baseline; None where nobody asked."""
    if limit is None:
        return None
    value = whole.measured if whole is not None and not on_cpu else None
    if value is None:
        why = (
            "a CPU's times say nothing of a GPU"
            if on_cpu
            else "no baseline was timed under this load"
        )
        words = f"{limit:g} times as fast as the baseline is asked, and {why}."
        remedy = "run it on a GPU" if on_cpu else "give the BF16 model with --baseline"
        outcome: Outcome = "not_measured"
    else:
        words = f"{value:.2f} times as fast as the baseline; {limit:g} is asked."
        outcome = "passed" if value >= limit else "failed"
        remedy = "a larger batch, or fewer dynamic scales: fp8scope estimate says what can be had"
    return Gate(
        name="speedup", outcome=outcome, value=value, limit=limit, words=words,
        remedy=None if outcome == "passed" else remedy,
    )  # fmt: skip


def _counted(groups: Sequence[Group]) -> str:
    """Of how many groups SM activity in prefill is known, if not of all: ncu may have seen few."""
    prefills = [group.phases.get("prefill") for group in groups]
    known = sum(each is not None and each.hardware.sm_active is not None for each in prefills)
    return f" of {known} of {len(groups)} fused groups" if known < len(groups) else ""


def _busier(prefill: Hardware | None) -> str:
    if prefill is not None and prefill.bound == "launch":
        return "too little work at a time: raise --batch or --prompt-len, or use CUDA graphs"
    return "raise --batch or --prompt-len: GEMMs with few rows leave SMs idle"


def _least_share(expected: Expected) -> float:
    """Of the launches in FP8, fused and not."""
    counts = [
        (group.expected, len(group.gemms), max(len(group.members), 1)) for group in expected.groups
    ]
    latent = [member for group in expected.groups for member in group.members if _LATENT in member]
    counts += [(False, 2, 2) for _ in latent]
    fused = sum(one for is_fp8, one, _ in counts if is_fp8), sum(one for _, one, _ in counts)
    apart = sum(each for is_fp8, _, each in counts if is_fp8), sum(each for *_, each in counts)
    return min((fp8 / every if every else 0.0) for fp8, every in (fused, apart))


def _where(judged: Sequence[Group]) -> str:
    """In which phases they were seen, if not all of them in both."""
    phases = {name for group in judged for name in group.phases}
    if len(phases) == 1:
        alone = min(phases)
        return "" if alone == "all" else f", in {alone} alone"
    partly = sum(group.phases.keys() != phases for group in judged)
    return f", {partly} of them seen in one phase alone" if partly else ""


def _named(groups: Sequence[Group]) -> str:
    """The first with what they ran in, and their longest kernel."""
    parts = [f"{group.name} ({_ran(group)})" for group in groups[:NAMED]]
    left = len(groups) - len(parts)
    return ", ".join(parts) + (f" and {left} more" if left else "")


def _ran(group: Group) -> str:
    if group.realized == "fp8" and group.judged == "not_as_planned" and group.expected:
        return _otherwise(group)
    said = {"weight_only": "weight-only", "not_seen": "not seen"}.get(
        group.realized, group.realized
    )
    kernels = [
        use
        for phase in group.phases.values()
        for use in phase.kernels
        if use.role in {"gemm", "other"}
    ]
    wrong = [use for use in kernels if use.precision != "fp8"] or kernels
    if not wrong:
        return said
    longest = max(wrong, key=lambda use: use.time_us).name
    return f"{said}, {longest if len(longest) <= 60 else longest[:58] + ' …'}"


def _otherwise(group: Group) -> str:
    """In FP8, and not in that which was planned."""
    if not group.stored.startswith("fp8"):
        return f"ran in FP8, and lies in {treatment_words(group.stored)}"
    both = [treatment_words(each).removeprefix("FP8 ") for each in (group.stored, group.planned)]
    brief = [each.partition(",")[0] for each in both]
    stored, planned = brief if brief[0] != brief[1] else both
    return f"ran in FP8 {stored}, planned {planned}"
