"""Our own engine: a child of ours per pass, told what to do by an order on disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

import fp8scope
from fp8scope.artefacts.json_file import first_fault, read_object
from fp8scope.errors import BadInput
from fp8scope.runtime.fp8.metadata import fp8_metadata
from fp8scope.traces.record import Device, RunRecord
from fp8scope.verify.engines.engine import Task
from fp8scope.verify.launch import Launch
from fp8scope.verify.order import RUN, Order, Pass, Watcher

ORDER = "order.json"
OURS, GOES_ON = "fp8scope: ", " …"
"""How our children begin what they tell people, and end what tells how far they are."""


class Native:
    """The embedded engine. `template`: an order whose folder, pass, watcher and load are replaced;
    the rest (device, dtype, seed, …) holds for every pass.
    """

    def __init__(self, template: Order) -> None:
        self._template = template

    def version(self) -> str:
        """Ours."""
        return fp8scope.__version__

    def check(self, task: Task, watchers: Collection[Watcher]) -> None:
        """Raises BadModel for a checkpoint that is not quantized, or in a way that is not run
        here: the child says it too, when torch is loaded.
        """
        if not task.baseline:
            folder = Path(task.checkpoint)
            config, nested = folder / "config.json", folder / "hf_quant_config.json"
            fp8_metadata(
                folder,
                json.loads(config.read_bytes()),
                json.loads(nested.read_bytes()) if nested.is_file() else None,
            )

    def timing(self, task: Task, folder: Path) -> tuple[Launch, ...]:
        """One child, that leaves run.json."""
        return (self._launch(task, "timing", "none", folder),)

    def tagged(self, task: Task, watcher: Watcher, folder: Path) -> Launch:
        """One child, whose modules run in NVTX ranges of our domain."""
        return self._launch(task, "tagged", watcher, folder)

    def _launch(self, task: Task, what: Pass, watcher: Watcher, folder: Path) -> Launch:
        order = replace(
            self._template,
            checkpoint=task.checkpoint,
            folder=str(folder),
            what=what,
            watcher=watcher,
            batch=task.load.batch,
            prompt_len=task.load.prompt_len,
            gen_len=task.load.gen_len,
            baseline=task.baseline,
            repeats=task.repeats,
            decode_steps=task.decode_steps,
        )
        folder.mkdir(parents=True, exist_ok=True)
        order.write(folder / ORDER)
        words = (sys.executable, "-m", "fp8scope.verify.child", str(folder / ORDER))
        return Launch(words, folder, task.environment, marks=what == "tagged")

    def telling(self, line: str) -> str:
        """Our own lines of how far it is: a refusal is raised, warnings of libraries stay."""
        ours = line.startswith(OURS) and line.endswith(GOES_ON)
        return line.removeprefix(OURS) if ours else ""

    def record(self, task: Task, folder: Path, device: Device) -> RunRecord:
        """run.json, as the child wrote it: it knows its device itself, but in containers that hide
        the kernel's module not the driver.
        """
        try:
            record = RunRecord.model_validate(read_object(folder / RUN, "run"))
        except ValidationError as error:
            what = f"{folder / RUN} is no run of this release ({first_fault(error)})"
            raise BadInput(what, "run it again") from error
        if record.device.driver or record.device.kind == "cpu":
            return record
        known = record.device.model_copy(update={"driver": device.driver})
        return record.model_copy(update={"device": known})
