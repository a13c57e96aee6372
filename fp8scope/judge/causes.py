"""Why a group is not as planned, or could not be judged, and what to do: each from what was seen.

Rules are tried in order, the ones with the hardest evidence first: files, then the GPU, shapes, the
metadata, the kernel's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import cast

from fp8scope.artefacts.verdict import Ran, Realized
from fp8scope.core.gpus import Gpu
from fp8scope.core.modules import WORDS, Treatment
from fp8scope.judge.expected import SIDE, ExpectedGroup
from fp8scope.judge.placing import Launch, Placed
from fp8scope.judge.realized import missing

FP8_FROM = (8, 9)
_CONSUMERS = {"vllm": "vllm", "trtllm": "trtllm"}
Found = tuple[str, str] | None


@dataclass(frozen=True)
class Case:
    """A group, what it ran in, and all that was seen of it. `may_be_other`: the report was made
    elsewhere, and looks like that of the BF16 model (`Sight.all_plain`).
    """

    folder: str
    group: ExpectedGroup
    realized: Realized
    launches: Sequence[Launch]
    reports: Sequence[Placed]
    ran: Ran
    gpu: Gpu | None
    may_be_other: bool = False

    @property
    def kernel(self) -> str:
        """The longest that may be why."""
        gemms = [each for each in self.launches if each.may_be_gemm]
        told = [each for each in gemms if each.evidence != "none"]
        wrong = [each for each in told if each.precision != "fp8" or each.weight_only]
        if self.realized == "unknown":
            wrong = [each for each in gemms if each.evidence == "none"]
        found = wrong or gemms or list(self.launches)
        return max(found, key=lambda each: each.kernel.time_us).kernel.name if found else ""

    @property
    def shown(self) -> str:
        """Its name at a length that can be read."""
        return self.kernel if len(self.kernel) <= 80 else f"{self.kernel[:78]} …"

    @property
    def capability(self) -> tuple[int, int] | None:
        """Of the GPU, by its driver or by the table."""
        return self.ran.compute_capability or (self.gpu.compute_capability if self.gpu else None)


def why(case: Case) -> Found:
    """Cause and remedy, each a part of a sentence; None where nothing needs one."""
    rules: tuple[Callable[[Case], Found], ...]
    if case.realized == "not_seen":
        rules = (_no_ranges, _lost, _left_out)
    elif case.realized == "unknown":
        rules = (_unknown,)
    elif case.group.expected:
        rules = (
            _files,
            _too_old,
            _blocks,
            _odd,
            _other_build,
            _listed,
            _marlin,
            _paths,
            _multiplied,
        )
    else:
        rules = (_quantized,)
    return next((found for rule in rules if (found := rule(case)) is not None), None)


def words(treatment: str) -> str:
    """As people call it."""
    return WORDS.get(cast(Treatment, treatment), "several precisions")


def _files(case: Case) -> Found:
    group = case.group
    if group.stored == group.planned:
        return None
    other = next((m for m in group.linears if m.wanted != group.planned), group.linears[0])
    stored = words(other.wanted or "bf16")
    who = "it" if group.stored == other.wanted else other.name
    cause = f"{who} lies in {stored} in the files, and the plan says {words(group.planned)}"
    if group.listed:
        cause += f"; the metadata excludes {group.listed[0]}"
    remedy = "build it again from the plan (fp8scope build), then fp8scope doctor "
    return cause, remedy + quote(case.folder)


def _too_old(case: Case) -> Found:
    if case.capability is None or case.capability >= FP8_FROM:
        return None
    major, minor = case.capability
    cause = f"{case.ran.gpu} has no FP8 tensor cores (compute capability {major}.{minor})"
    remedy = "run it on 8.9 or above (Ada, Hopper, Blackwell); here FP8 saves memory alone"
    return cause, remedy


def _odd(case: Case) -> Found:
    if (odd := case.group.odd) is None:
        return None
    sides = f"{odd.out_features} x {odd.in_features}"
    cause = f"{odd.name} is {sides}, and FP8 GEMMs take multiples of {SIDE}: {case.shown} ran"
    return cause, f"keep it in BF16: fp8scope plan --exclude {quote(case.group.name)}"


def _blocks(case: Case) -> Found:
    if case.group.stored != "fp8_block" or case.ran.engine != "native":
        return None
    cause = "its scales are per block, which the native engine does not multiply with"
    remedy = "verify it with --engine vllm, or plan with --candidates fp8_tensor,fp8_token"
    return cause, remedy


def _other_build(case: Case) -> Found:
    if not case.may_be_other:
        return None
    cause = (
        "the report may be of another build, the BF16 model's: no group multiplies FP8, "
        f"{case.shown} ran"
    )
    return cause, f"see that it is of this checkpoint; if it is, {_check(case)}"


def _listed(case: Case) -> Found:
    if not case.group.listed:
        return None
    cause = f"it lies in FP8, and the metadata says that {case.group.listed[0]} is not quantized"
    consumer = _CONSUMERS.get(case.ran.engine, "vllm")
    remedy = f"fp8scope check {quote(case.folder)} --for {consumer} shows what its list matches"
    return cause, remedy


def _marlin(case: Case) -> Found:
    weight_only = [each for each in case.launches if each.weight_only]
    if not weight_only:
        return None
    cause = f"{case.shown} is a weight-only kernel: FP8 is dequantized and multiplied in 16 bits"
    if case.ran.engine == "vllm":
        return cause, "unset VLLM_TEST_FORCE_FP8_MARLIN, and read in vLLM's log why it chose Marlin"
    return cause, "look in the engine's log for why it fell back, and for a flag that forces it"


def _paths(case: Case) -> Found:
    if case.realized != "mixed":
        return None
    plain = [each for each in case.launches if each.is_gemm and each.precision != "fp8"]
    phases = {each.phase for each in plain}
    if len(phases) == 1 and any(
        each.is_gemm and each.phase not in phases for each in case.launches
    ):
        phase = min(phases)
        cause = f"in {phase} it runs {case.shown}, and in FP8 elsewhere"
        remedy = "the engine has another path for this many tokens: try another --batch, or its log"
        return cause, remedy
    names = sorted({each.module or "" for each in plain})
    return f"{names[0]} runs {case.shown}, and others of the group FP8", _check(case)


def _multiplied(case: Case) -> Found:
    precision = next((x.precision for x in case.launches if x.kernel.name == case.kernel), "")
    return f"{case.shown} multiplies {precision}, and the files hold FP8", _check(case)


def _check(case: Case) -> str:
    consumer = _CONSUMERS.get(case.ran.engine)
    if consumer is None:
        return "look in the engine's log for why it fell back"
    return f"fp8scope check {quote(case.folder)} --for {consumer}, then the engine's log"


def _quantized(case: Case) -> Found:
    if case.realized == case.group.planned:
        return None
    if case.group.stored != case.group.planned:
        cause = f"it lies in {words(case.group.stored)} in the files, and the plan keeps it in BF16"
        return cause, "build it again from the plan (fp8scope build)"
    cause = f"it lies in {words(case.group.stored)}, and {case.shown} ran: the engine quantized it"
    return cause, "start the engine without a quantization of its own: the checkpoint says how"


def _unknown(case: Case) -> Found:
    if left := missing(case.group, case.launches):
        cause = f"no GEMM of {left[0]} is in the report, and an engine may run each by itself"
        return cause, "record a whole pass, without filters that leave kernels out"
    cause = f"nothing tells what {case.shown} multiplies: neither its name nor a counter"
    return cause, "count its operations: --profiler ncu, or torch, which sees operands"


def _no_ranges(case: Case) -> Found:
    if not case.reports:
        return "no profiler watched", "give --profiler nsys, ncu or torch"
    if any(each.has_modules for each in case.reports):
        return None
    cause = "the report has no ranges of modules"
    return (
        cause,
        "tag them: verify with the native engine, or vLLM's --enable-layerwise-nvtx-tracing",
    )


def _lost(case: Case) -> Found:
    """Kernels that lie in a phase and in no module: their launches are those of a graph."""
    for report in case.reports:
        lost = [x for x in report.launches if x.owner is None and x.is_gemm and x.phase != "all"]
        if lost:
            cause = (
                f"GEMMs of {lost[0].phase} lie in no module's range: a CUDA graph or compiled code"
            )
            if report.trace.tool == "nsys":
                return cause, "record with --cuda-graph-trace=node, and without compiling"
            return cause, "record without CUDA graphs and without compiling"
    return None


def _left_out(case: Case) -> Found:
    ncu = all(each.trace.tool == "ncu" for each in case.reports)
    cause = "no kernel of it is in the report"
    if ncu:
        return cause, "let ncu take more kernels: its -k filter and -c limit leave some out"
    return cause, "record a whole pass: the capture began late or ended early"
