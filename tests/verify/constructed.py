"""A checkpoint on disk, reports that a GPU of paper gave of it, and an engine that leaves them.

CONSTRUCTED: traces as torch.profiler of 2.9 and later writes them, see
tests/traces/test_torch_trace.py; names of kernels are real, times invented. No GPU ran.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from fp8scope.judge.expected import read_expected
from fp8scope.traces.record import Device, RunRecord
from fp8scope.verify.devices import Present
from fp8scope.verify.engines.engine import Task
from fp8scope.verify.launch import Launch
from fp8scope.verify.order import RUN, TORCH_TRACE, Watcher
from tests.bench.gpu_models import TINY, write_bf16, write_fp8
from tests.judge import runs
from tests.traces.test_torch_trace import H200, Recorder

BF16, FP8, MARLIN = runs.BF16, runs.FP8, runs.MARLIN
DOWN = "model.layers.1.mlp.down_proj"
GPU = Present(0, "GPU-5f2c3a1e", "NVIDIA H200", 150_110_011_392, (9, 0), False, "580.65.06")


@cache
def folders() -> tuple[Path, Path]:
    """The BF16 model, and its FP8 checkpoint with a plan: 8 groups in FP8, lm_head in BF16. Shared:
    do not change them.
    """
    folder = Path(mkdtemp(prefix="fp8scope-verify-"))
    bf16 = write_bf16(TINY, folder / "bf16")
    return bf16, write_fp8(bf16, folder / "fp8")


def trace(path: Path, kernels: Mapping[str, str] | None = None, *, fp8: str = FP8) -> Path:
    """A prefill and two decode steps of the FP8 checkpoint. `kernels`: other ones for members."""
    made, number, clock = Recorder(), 0, 0.0
    groups = read_expected(folders()[1]).groups
    for phase in ("prefill", "decode", "decode"):
        start = clock
        for group in groups:
            for member in group.members:
                name = (kernels or {}).get(member, fp8 if group.expected else BF16)
                number += 1
                made.add("user_annotation", f"fp8scope:{member}", clock + 1, 8)
                took = 40.0 if name == FP8 else 80.0
                made.launch(number, clock + 3, name, took if phase == "prefill" else took / 8)
                clock += 100
        made.add("user_annotation", f"fp8scope:{phase}", start, clock - start)
    text = {"schemaVersion": 1, "deviceProperties": [H200], "traceEvents": made.events}
    path.write_text(json.dumps(text))
    return path


def record(path: Path, device: Device = runs.H200, ttft: float = 20.0, tpot: float = 5.0) -> Path:
    """run.json of the native engine; times in ms."""
    path.write_text(runs.record(ttft, tpot, device).model_dump_json())
    return path


@dataclass
class Shell:
    """An engine whose passes are lines of `sh`, run in their folders: one by watcher; "none" is the
    timing. Each leaves a line in `log` first.
    """

    log: Path
    scripts: dict[str, str] = field(default_factory=dict)
    checked: list[tuple[Task, Collection[Watcher]]] = field(default_factory=list)
    steps: dict[Watcher, int] = field(default_factory=dict)

    def version(self) -> str:
        return "1"

    def check(self, task: Task, watchers: Collection[Watcher]) -> None:
        self.checked.append((task, list(watchers)))

    def timing(self, task: Task, folder: Path) -> tuple[Launch, ...]:
        return (self._launch(task, "none", folder),)

    def tagged(self, task: Task, watcher: Watcher, folder: Path) -> Launch:
        self.steps[watcher] = task.decode_steps
        return self._launch(task, watcher, folder)

    def _launch(self, task: Task, watcher: Watcher, folder: Path) -> Launch:
        said = f"echo {Path(task.checkpoint).name} {watcher} $CUDA_VISIBLE_DEVICES"
        script = f"{said} >> {shlex.quote(str(self.log))}; cd {shlex.quote(str(folder))}; "
        words = ("sh", "-c", script + self.scripts.get(watcher, "true"))
        return Launch(words, folder, task.environment)

    def telling(self, line: str) -> str:
        return line

    def record(self, task: Task, folder: Path, device: Device) -> RunRecord:
        said = RunRecord.model_validate_json((folder / RUN).read_text())
        return said.model_copy(update={"checkpoint": task.checkpoint})

    @property
    def passes(self) -> list[str]:
        """That were begun, in order."""
        return [line.strip() for line in self.log.read_text().splitlines()]


def shell(folder: Path, **scripts: str) -> Shell:
    """One that runs as it should, but where `scripts` say otherwise; its files in `folder`."""
    given = {RUN: record(folder / RUN), TORCH_TRACE: trace(folder / TORCH_TRACE)}
    copied = {name: f"cp {shlex.quote(str(path))} {name}" for name, path in given.items()}
    usual = {"none": copied[RUN], "torch": copied[TORCH_TRACE]}
    return Shell(folder / "passes.txt", usual | scripts)
