"""What every engine answers: is it here, how is it started, how fast did it say it was."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from fp8scope.artefacts.verdict import Percentiles
from fp8scope.traces.record import Device, Load, RunRecord
from fp8scope.verify.launch import Launch
from fp8scope.verify.order import DECODE_STEPS, Watcher


def longest_answer(gen_len: int, decode_steps: int = DECODE_STEPS) -> int:
    """Tokens after the prompt, in the longest of the passes."""
    return max(gen_len, 1 + decode_steps)


@dataclass(frozen=True)
class Task:
    """What is to be run: a checkpoint's folder or hub id, under a load. `baseline`: it is a BF16
    model. `environment` leads to the GPU. `options`: further words for the engine's command.
    """

    checkpoint: str
    load: Load
    baseline: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    repeats: int = 5
    decode_steps: int = DECODE_STEPS


class Engine(Protocol):
    """How an engine is run. Launches that belong to one pass are run one after the other."""

    def version(self) -> str:
        """Its version. Raises Missing where it is not installed, with what to install."""

    def check(self, task: Task, watchers: Collection[Watcher]) -> None:
        """Raises BadInput, BadModel and Missing for what it could not do, before anything runs."""

    def timing(self, task: Task, folder: Path) -> tuple[Launch, ...]:
        """Without a profiler, as fast as it goes; none where it does not measure itself."""

    def tagged(self, task: Task, watcher: Watcher, folder: Path) -> Launch:
        """One prefill and a few decode steps, to be seen by `watcher`."""

    def telling(self, line: str) -> str:
        """What of a line on its stderr tells people how far it is; empty for the rest, which stays
        in the folder.
        """

    def record(self, task: Task, folder: Path, device: Device) -> RunRecord:
        """What it said of the timing launches in `folder`. Raises BadInput where that is missing
        or not what it writes.
        """


def percentiles(milliseconds: Sequence[float]) -> Percentiles | None:
    """None of no values, or of any that is not positive."""
    values = np.asarray(milliseconds, np.float64)
    if not values.size or not np.all(values > 0) or not np.all(np.isfinite(values)):
        return None
    p50, p95 = np.percentile(values, (50, 95))
    return Percentiles(
        p50=float(p50), p95=float(p95), mean=float(values.mean()), count=int(values.size)
    )
