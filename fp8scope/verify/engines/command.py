"""Any command: run as it is, under a profiler. What it prints of its speed is not read."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from fp8scope.artefacts.verdict import Speed
from fp8scope.errors import BadInput, Missing
from fp8scope.traces.record import Device, RunRecord
from fp8scope.verify.engines.engine import Task
from fp8scope.verify.launch import Launch
from fp8scope.verify.order import Watcher

UNMARKED = (
    "the command is profiled from start to end, start-up and all: its kernels tell in what it ran, "
    "its times are of everything, and layers are known only where it sets NVTX ranges named so"
)

_NO_TORCH = (
    "torch.profiler cannot be put around a command from outside",
    "install nsys, or record a trace in it and give it by --report",
)


class Command:
    """The words of a command, with which `task.options` are put at the end."""

    def __init__(self, words: tuple[str, ...]) -> None:
        if not words:
            what = "--engine command needs a command after --"
            raise BadInput(what, "for example: fp8scope verify CHECKPOINT … -- python serve.py")
        self._words = words

    def version(self) -> str:
        """Unknown. Raises Missing where the first word cannot be executed."""
        if shutil.which(self._words[0]) is None:
            what = f"the command {self._words[0]} is not there, or may not be executed"
            raise Missing(what, "give its path")
        return ""

    def check(self, task: Task, watchers: Collection[Watcher]) -> None:
        """Raises Missing for a command or profiler that is not there, and BadInput for a baseline,
        of which the words know nothing.
        """
        self.version()
        if task.baseline:
            what = "--engine command runs the words as they are, for a baseline too"
            remedy = "verify both by themselves, and compare with --report and --baseline-report"
            raise BadInput(what, remedy)
        if "torch" in watchers:
            raise Missing(*_NO_TORCH)

    def timing(self, task: Task, folder: Path) -> tuple[Launch, ...]:
        """None: it does not measure itself."""
        return ()

    def tagged(self, task: Task, watcher: Watcher, folder: Path) -> Launch:
        """The command. Raises Missing for a profiler that it would have to start by itself."""
        if watcher == "torch":
            raise Missing(*_NO_TORCH)
        return Launch((*self._words, *task.options), folder, task.environment)

    def telling(self, line: str) -> str:
        """All of it."""
        return line

    def record(self, task: Task, folder: Path, device: Device) -> RunRecord:
        """What is known: the device and the load that was stated."""
        return RunRecord(
            engine="command",
            engine_version="",
            checkpoint=task.checkpoint,
            device=device,
            load=task.load,
            speed=Speed(),
            notes=(UNMARKED,),
        )
