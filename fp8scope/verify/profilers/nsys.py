"""Nsight Systems: which kernels ran when, in which NVTX ranges; samples of the whole GPU.

Option spellings are those of `nsys profile --help`: `--gpu-metrics-device` of 2022.4 to 2023.4 is
`--gpu-metrics-devices` from 2024.2 on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fp8scope.errors import BadInput, Missing
from fp8scope.traces.nsys_export import export_nsys
from fp8scope.verify import failures
from fp8scope.verify.launch import Launch
from fp8scope.verify.order import read_refusal
from fp8scope.verify.profilers.tool import (
    PERMISSION,
    ask,
    executables,
    options_in,
    version_in,
)
from fp8scope.verify.supervise import Ended

INSTALL = (
    "install nsight-systems-cli (https://developer.nvidia.com/nsight-systems) or let NSYS name "
    "the executable, or take --profiler torch"
)
_FOLDERS = (
    "opt/nvidia/nsight-systems/*/bin/nsys",
    "opt/nvidia/nsight-systems-cli/*/bin/nsys",
    "opt/nvidia/nsight-systems/*/target-linux-*/nsys",
    "usr/local/cuda*/bin/nsys",
    "usr/lib/nsight-systems/bin/nsys",
    "usr/lib/*/nsight-systems/target-linux-*/nsys",
)
_NEEDED = ("--capture-range-end", "--cuda-graph-trace")
_METRICS = ("--gpu-metrics-devices", "--gpu-metrics-device")
_REFUSED_OPTION = "Try 'nsys profile --help'"
_NSIGHT_COMPUTE = re.compile(r"(nvidia-)?nsight[-_]compute", re.IGNORECASE)
_LISTED = re.compile(r"^\s*(\d+): ", re.MULTILINE)


@dataclass(frozen=True)
class Nsys:
    """A usable nsys. `options` and `cuda_visible` are what its help knows. `metrics`: the option
    that samples the GPU, None where that is not possible, for the reasons in `notes`.
    """

    path: Path
    version: str
    options: frozenset[str]
    metrics: str | None
    notes: tuple[str, ...] = ()
    name: str = field(default="nsys", init=False)

    def around(self, launch: Launch) -> Launch:
        """The launch under nsys: kernels also inside of CUDA graphs, between cudaProfilerStart and
        Stop where the command marks them.
        """
        marked = ("--capture-range=cudaProfilerApi", "--capture-range-end=stop")
        forks = "--trace-fork-before-exec"
        words = (
            str(self.path),
            "profile",
            "--trace=cuda,nvtx",
            "--sample=none",
            "--cpuctxsw=none",
            "--cuda-graph-trace=node",
            *((f"{forks}=true",) if forks in self.options else ()),
            *(marked if launch.marks else ()),
            *((self.metrics,) if self.metrics else ()),
            "--force-overwrite=true",
            f"--output={_base(launch.folder)}",
        )
        return replace(launch, words=(*words, *launch.words))

    def report(self, ended: Ended) -> Path:
        """The report of a run that ended.

        Raises Missing (no permission, an option that this nsys does not take, no importer),
        BadInput (nothing was captured), and what the child itself failed with.
        """
        report = _base(ended.folder).with_suffix(".nsys-rep")
        written = report.exists() and report.stat().st_size > 0
        said = ended.output()
        if not written and read_refusal(ended.folder) is None:
            self._refuse(ended, said)
        failures.check(ended, "the profiled run")
        if not written:
            what = "nsys captured nothing: the command did not call cudaProfilerStart"
            raise BadInput(what, "profile a command that runs CUDA kernels, on a GPU")
        return report

    def _refuse(self, ended: Ended, said: str) -> None:
        if "ERR_NVGPUCTRPERM" in said:
            raise Missing("nsys may not read the GPU's counters", PERMISSION)
        if _REFUSED_OPTION in said:  # the command was not even started
            why = next(line for line in said.splitlines() if line.strip())
            raise Missing(f"nsys {self.version} at {self.path}: {why.strip()}", INSTALL)
        raw = _base(ended.folder).with_suffix(".qdstrm")
        if raw.exists() or "skipping importation" in said:
            raise Missing(
                f"nsys {self.version} at {self.path} wrote {raw.name} and no report: the importer "
                "or its libraries are missing, as in the nsys inside of Nsight Compute",
                INSTALL,
            )

    def export(self, report: Path) -> Path:
        """The report as SQLite, beside it. Raises BadInput where it cannot be read."""
        target = report.with_suffix(".sqlite")
        export_nsys(self.path, report, target)
        return target


def find_nsys(
    environment: Mapping[str, str] | None = None, device: int = 0, root: Path = Path("/")
) -> Nsys:
    """The nsys of this machine; `device`: the GPU to sample, as nvidia-smi numbers them.

    Raises Missing: there is none, it is too old, or it belongs to Nsight Compute and writes no
    reports.
    """
    found = executables("nsys", _FOLDERS, os.environ if environment is None else environment, root)
    whole = [path for path in found if not _of_nsight_compute(path)]
    if not whole:
        if not found:
            raise Missing("nsys (Nsight Systems) is not installed", INSTALL)
        what = f"the only nsys here, {found[0]}, is part of Nsight Compute and writes no reports"
        raise Missing(what, INSTALL)
    path = whole[0]
    version = version_in(ask([path, "--version"]))
    shown = ask([path, "profile", "--help"])
    options = options_in(shown)
    lacking = [option for option in _NEEDED if option not in options]
    if lacking:
        what = f"nsys {version or '(without a version)'} at {path} is too old: no {lacking[0]}"
        raise Missing(what, INSTALL)
    metrics, notes = _metrics(path, options, "cuda-visible" in shown, device)
    return Nsys(path, version, options, metrics, notes)


def _of_nsight_compute(path: Path) -> bool:
    return any(_NSIGHT_COMPUTE.match(part) for part in path.resolve().parts)


def _metrics(
    path: Path, options: frozenset[str], cuda_visible: bool, device: int
) -> tuple[str | None, tuple[str, ...]]:
    """The option that samples the GPU's metrics. nsys refuses the whole run where it cannot."""
    option = next((each for each in _METRICS if each in options), None)
    if option is None:
        return None, ("this nsys does not sample GPU metrics: SM activity over time is not known",)
    said = ask([path, "profile", f"{option}=help"])
    usable = [
        int(found[1])
        for line in said.splitlines()
        if (found := _LISTED.match(line)) and not _cannot(line)
    ]
    if device in usable:
        return f"{option}={'cuda-visible' if cuda_visible else device}", ()
    if "ERR_NVGPUCTRPERM" in said or "privilege" in said.lower():
        reason = f"no permission for counters; {PERMISSION}"
    elif "already under profiling" in said.lower():
        reason = "another tool, such as DCGM, holds the counters (dcgmi profile --pause)"
    else:
        reason = "nsys does not support it on this GPU"
    return None, (f"SM activity over time was not sampled: {reason}",)


def _cannot(line: str) -> bool:
    words = ("not supported", "unsupported", "privilege", "already under profiling", "nvgpuctrperm")
    return any(word in line.lower() for word in words)


def _base(folder: Path) -> Path:
    return folder / "nsys"
