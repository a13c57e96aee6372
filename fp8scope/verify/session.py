"""The passes of one verification: each child under its profiler, and what all of it left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from fp8scope.errors import Fp8scopeError
from fp8scope.judge.sight import Run
from fp8scope.traces.reading import read_trace
from fp8scope.traces.record import RunRecord
from fp8scope.traces.trace import Trace
from fp8scope.verify import failures
from fp8scope.verify.devices import Used
from fp8scope.verify.engines.engine import Engine, Task
from fp8scope.verify.launch import Launch
from fp8scope.verify.nvml import Samples, busiest, sampling
from fp8scope.verify.order import Watcher
from fp8scope.verify.profilers.choose import Choice
from fp8scope.verify.supervise import Ended, run


@dataclass(frozen=True)
class Session:
    """How children are run. `timeout_s` of each; `tell` takes what they say on stderr, a line at a
    time, in another thread; `cleanup` gets what ends them.
    """

    engine: Engine
    choice: Choice
    used: Used
    timeout_s: float | None = None
    tell: Callable[[str], None] = lambda line: None
    cleanup: ExitStack = field(default_factory=ExitStack)

    def gather(self, task: Task, folder: Path) -> Run:
        """All passes over one checkpoint, their reports in folders below `folder`.

        Raises what the children and the profilers refuse. Counters that cannot be had beside a
        timeline are no reason to: the record's notes say why they are missing.
        """
        with self._sampled() as samples:
            record = self._timed(task, folder / "timing")
        traces: list[Trace] = []
        notes = [*self.used.notes, *self.choice.unseen, *samples.notes, *busiest(samples.sampled)]
        for watcher in self._watchers(task):
            try:
                traces.append(read_trace(self._tagged(task, watcher, folder / watcher)))
            except Fp8scopeError as error:
                if not traces:
                    raise
                notes.append(f"{watcher} gave nothing: {error.what}")
        noted = tuple(dict.fromkeys((*record.notes, *notes)))
        return Run(tuple(traces), record.model_copy(update={"notes": noted}))

    def _watchers(self, task: Task) -> list[Watcher]:
        """Of a baseline only times are asked for: the first profiler has them."""
        found = [watcher for what, watcher in self.choice.passes if what == "tagged"]
        return found[:1] if task.baseline else found

    @contextmanager
    def _sampled(self) -> Iterator[Samples]:
        if self.used.gpu is None:
            yield Samples()
            return
        with sampling(self.used.gpu.uuid) as samples:
            yield samples

    def _timed(self, task: Task, folder: Path) -> RunRecord:
        for launch in self.engine.timing(task, folder):
            failures.check(self._run(launch), f"the timed run of {task.checkpoint}")
        return self.engine.record(task, folder, self.used.device())

    def _tagged(self, task: Task, watcher: Watcher, folder: Path) -> Path:
        profiler = self.choice.profilers[watcher]
        if watcher == "ncu":  # it runs each kernel several times, and saves memory before
            task = replace(task, decode_steps=1)
        launch = profiler.around(self.engine.tagged(task, watcher, folder))
        return profiler.export(profiler.report(self._run(launch)))

    def _run(self, launch: Launch) -> Ended:
        return run(
            launch.words,
            launch.folder,
            environment=launch.environment,
            timeout_s=self.timeout_s,
            on_line=self._pass_on,
            cleanup=self.cleanup,
        )

    def _pass_on(self, line: str) -> None:
        if told := self.engine.telling(line):
            self.tell(told)
