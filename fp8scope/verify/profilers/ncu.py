"""Nsight Compute: hardware counters of single kernels, which it replays one by one.

Metric names differ per chip: they come from `traces.ncu_metrics`, and what this ncu does not know
of them on this GPU is left out, since one unknown name stops it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fp8scope.artefacts.atomic import write_atomically
from fp8scope.errors import BadInput, Missing
from fp8scope.traces.ncu_metrics import available, metrics_for
from fp8scope.verify import failures
from fp8scope.verify.launch import Launch
from fp8scope.verify.order import read_refusal
from fp8scope.verify.profilers.tool import (
    PERMISSION,
    ask,
    executables,
    first_line_with,
    options_in,
    version_in,
)
from fp8scope.verify.supervise import Ended

INSTALL = (
    "install nsight-compute (https://developer.nvidia.com/nsight-compute) or let NCU name the "
    "executable; without it, precision is judged by kernel names"
)
KERNELS = "regex:nvjet|gemm|gemv|cutlass|xmma|scaled_mm|marlin|machete|triton|attention|flash"
"""Of what is measured: matrix multiplications, however they are called, and attention."""
_FOLDERS = (
    "opt/nvidia/nsight-compute/*/ncu",
    "usr/local/cuda*/bin/ncu",
    "usr/local/NVIDIA-Nsight-Compute*/ncu",
    "usr/lib/nsight-compute/ncu",
)
_NEEDED = ("--profile-from-start", "--kernel-name-base", "--target-processes", "--log-file")
_LOG = "ncu.log"
FP8_OPERANDS = "fp8"
"""In the names of metrics that count operations of FP8 operands."""
_NOT_COUNTED = ("launch__", "device__", "profiler__", "breakdown:", "group:", "regex:")
"""Kinds of names that ncu takes, and `--query-metrics` does not list."""


@dataclass(frozen=True)
class Ncu:
    """A usable ncu, with the metrics that it can collect on this GPU."""

    path: Path
    version: str
    metrics: tuple[str, ...]
    notes: tuple[str, ...] = ()
    name: str = field(default="ncu", init=False)

    def around(self, launch: Launch, kernels: str = KERNELS, count: int | None = None) -> Launch:
        """The launch under ncu: `kernels` where the launch marks them, at most `count`.

        Clocks and caches are left alone, so that counters tell of what a run really does. Ranges
        are recorded, and no filter: what is marked is all in them.
        """
        base = _base(launch.folder)
        marked = ("--profile-from-start", "off") if launch.marks else ()
        limit = ("--launch-count", str(count)) if count is not None else ()
        words = (
            *(str(self.path), "--target-processes", "all", "--replay-mode", "kernel"),
            *("--clock-control", "none", "--cache-control", "none", "--nvtx", *marked),
            *("--kernel-name-base", "demangled", "--kernel-name", kernels, *limit),
            *("--metrics", ",".join(self.metrics), "--log-file", str(launch.folder / _LOG)),
            *("--force-overwrite", "--export", str(base)),
        )
        return replace(launch, words=(*words, *launch.words))

    def report(self, ended: Ended) -> Path:
        """The report of a run that ended.

        Raises Missing (no permission, no driver, counters held by another tool), BadInput (no
        kernel was profiled), and what the child itself failed with.
        """
        said = _log(ended)
        report = _base(ended.folder).with_suffix(".ncu-rep")
        written = report.exists() and report.stat().st_size > 0
        if not written and read_refusal(ended.folder) is None:
            _refuse_tool(f"ncu {self.version}", said)
        failures.check(ended, "the profiled run")
        if not written or "No kernels were profiled" in said:
            raise BadInput(*_nothing(said))
        return report

    def export(self, report: Path) -> Path:
        """The report's raw page as CSV, beside it. Raises BadInput where it cannot be read."""
        words = ("--csv", "--page", "raw", "--print-units", "base")
        said = ask([self.path, "--import", report, *words], timeout_s=3600)
        start = said.find('"ID"')
        if start < 0:
            error = first_line_with(said, ("==ERROR==",)) or "it holds no kernels"
            what = f"ncu {self.version} cannot read {report} ({error})"
            raise BadInput(what, "record it anew, or read it with the ncu that recorded it")
        target = report.with_suffix(".csv")
        write_atomically(target, said[start:].encode())
        return target


def find_ncu(
    wanted: Iterable[str] | None = None,
    compute_capability: tuple[int, int] = (9, 0),
    environment: Mapping[str, str] | None = None,
    root: Path = Path("/"),
) -> Ncu:
    """The ncu of this machine, to collect `wanted`, by default what we judge by on that GPU.

    Raises Missing: there is none, it is too old, it sees no driver, or knows none of the metrics.
    """
    found = executables("ncu", _FOLDERS, os.environ if environment is None else environment, root)
    if not found:
        raise Missing("ncu (Nsight Compute) is not installed", INSTALL)
    path = found[0]
    version = version_in(ask([path, "--version"]))
    lacking = [option for option in _NEEDED if option not in options_in(ask([path, "--help"]))]
    if lacking:
        what = f"ncu {version or '(without a version)'} at {path} is too old: no {lacking[0]}"
        raise Missing(what, INSTALL)
    if wanted is None:
        wanted = metrics_for(compute_capability)
    known = _known(path, version, tuple(wanted))
    counts = any(FP8_OPERANDS in name for name in known)
    note = f"ncu {version} does not count FP8 operations on this GPU: its kernels are told by name"
    return Ncu(path, version, known, () if counts else (note,))


def _known(path: Path, version: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `wanted` that this ncu knows on the GPUs here; some are other chips' spellings."""
    said = ask([path, "--query-metrics"])
    _refuse_tool(f"ncu {version}", said)
    listed = available(said, wanted)
    known = tuple(name for name in wanted if name.startswith(_NOT_COUNTED) or name in listed)
    if not known:
        raise Missing(f"ncu {version} at {path} knows none of the metrics on this GPU", INSTALL)
    return known


def _refuse_tool(tool: str, said: str) -> None:
    """Raise what ncu itself could not do."""
    if "ERR_NVGPUCTRPERM" in said:
        raise Missing(f"{tool} may not read the GPU's counters", PERMISSION)
    if "driver resource was unavailable" in said:
        raise Missing(
            f"{tool} cannot read the GPU's counters: another tool, such as DCGM, holds them",
            "stop it for the time of the run (dcgmi profile --pause), or take --profiler nsys",
        )
    if "Driver could not be loaded" in said:
        raise Missing(f"{tool} finds no NVIDIA driver", "run this on a machine with a GPU")
    if "not supported on device" in said or "Profiling is not supported" in said:
        what = f"{tool} cannot profile this GPU, or this slice of one (MIG)"
        raise Missing(what, "take --profiler nsys, or a whole GPU")
    if "lock file" in said:
        what = f"{tool} cannot lock nsight-compute-lock, which is another user's"
        raise Missing(what, "let TMPDIR name a folder of your own, or remove it from there")
    failed = first_line_with(said, ("failed to initialize the profiler",))
    if failed is not None:  # LibraryNotLoaded: a sandbox such as gVisor hides the driver's parts
        what = f"{tool} cannot read counters on this machine ({failed})"
        raise Missing(what, "take --profiler nsys or torch, or a machine without such a sandbox")
    illegal = first_line_with(said, ("unrecognised option", "failed to find metric"))
    if illegal is not None:
        raise Missing(f"{tool}: {illegal}", INSTALL)


def _nothing(said: str) -> tuple[str, str]:
    """What and remedy where ncu profiled no kernel."""
    if "before first instrumented API call" in said:
        what = "ncu profiled nothing: the command ended before it used CUDA"
        return what, "profile a command that runs CUDA kernels, on a GPU"
    _, _, ran = said.partition("Available Kernels:")
    names = [line.split(". ", 1)[-1].strip() for line in ran.splitlines() if ". " in line]
    if names:
        what = f"ncu profiled nothing: no kernel of those wanted ran, but {', '.join(names[:3])}"
        return what, "no matrix multiplication ran in the ranges that are measured"
    error = first_line_with(said, ("==ERROR==",))
    what = f"ncu profiled no kernel ({error})" if error else "ncu profiled no kernel"
    return what, "profile a command that runs CUDA kernels in the ranges that are measured"


def _log(ended: Ended) -> str:
    try:
        log = (ended.folder / _LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        log = ""
    return f"{log}\n{ended.output()}"


def _base(folder: Path) -> Path:
    return folder / "ncu"
