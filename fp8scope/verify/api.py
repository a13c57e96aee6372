"""verify from end to end: a checkpoint runs under profilers, or was run elsewhere; then judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os.path import realpath
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fp8scope.artefacts.json_file import first_fault
from fp8scope.artefacts.verdict import Verdict
from fp8scope.checkpoint.hub import is_hub_id
from fp8scope.core.gpus import gpu_of_device
from fp8scope.core.roofline import Workload
from fp8scope.errors import BadInput, BadModel, Missing
from fp8scope.estimate.api import Estimate, estimate, read_served
from fp8scope.judge.expected import Expected, read_expected
from fp8scope.judge.verdict import Limits, Run, judge
from fp8scope.traces.reading import read_trace
from fp8scope.traces.record import Load, RunRecord
from fp8scope.verify.devices import Used, present, unlisted, use_one
from fp8scope.verify.engines.command import Command
from fp8scope.verify.engines.engine import Engine, Task
from fp8scope.verify.engines.native import Native
from fp8scope.verify.engines.trtllm import Trtllm
from fp8scope.verify.engines.vllm import Vllm
from fp8scope.verify.order import Order
from fp8scope.verify.profilers.choose import Finders, choose
from fp8scope.verify.session import Session
from fp8scope.verify.wanted import Wanted


@dataclass(frozen=True)
class Ready:
    """A verification that can begin: all that can be known before anything runs was looked at."""

    wanted: Wanted
    expected: Expected
    session: Session
    task: Task
    baseline: Task | None

    def run(self, folder: Path) -> Verdict:
        """Run the checkpoint, and its baseline where one is given, and judge what was seen.

        Reports go to `folder`, which exists. Raises ChildFailed (a child crashed or hung: what it
        left stays in the folder), what children refuse, and what reading reports raises.
        """
        wanted, session = self.wanted, self.session
        session.tell(f"running {wanted.checkpoint} ({wanted.engine})")
        found = session.gather(self.task, folder / "checkpoint")
        before = None
        if self.baseline is not None:
            session.tell(f"running the baseline {self.baseline.checkpoint}")
            before = session.gather(self.baseline, folder / "baseline")
        return _judged(self.expected, found, before, wanted.limits)


def prepare(
    wanted: Wanted,
    *,
    tell: Callable[[str], None] = lambda line: None,
    cleanup: ExitStack | None = None,
    finders: Finders | None = None,
) -> Ready:
    """Look at all that is needed. `tell` takes a line at a time of what goes on later; `cleanup`
    gets what ends a child.

    Raises BadInput and BadModel (no such checkpoint, not one for this engine, more tokens than it
    takes) and Missing (no GPU where one is required; an engine or profiler that is not here).
    """
    expected = _expected(wanted.checkpoint)
    used = _device(wanted)
    cuda = used.gpu is not None
    load = wanted.load(cuda=cuda, context=expected.context)
    engine = _engine(wanted, load, cuda=cuda)
    choice = choose(wanted.profiler, cuda=cuda, finders=finders or Finders.of(used.gpu))
    task = Task(
        str(wanted.checkpoint),
        load,
        environment=used.environment,
        options=wanted.options,
        repeats=wanted.repeats,
    )
    baseline = None
    if wanted.baseline is not None:
        _check_baseline(wanted.baseline, expected)
        baseline = replace(task, checkpoint=wanted.baseline, baseline=True)
    for each in (task, baseline):
        if each is not None:
            engine.check(each, choice.profilers)
    stack = cleanup if cleanup is not None else ExitStack()
    session = Session(engine, choice, used, wanted.timeout_s, tell, stack)
    return Ready(wanted, expected, session, task, baseline)


def verify_checkpoint(
    wanted: Wanted,
    folder: Path,
    *,
    tell: Callable[[str], None] = lambda line: None,
    cleanup: ExitStack | None = None,
    finders: Finders | None = None,
) -> Verdict:
    """Run the checkpoint, and its baseline where one is given, and judge what was seen.

    Reports go to `folder`, which exists. `tell` takes a line at a time of what goes on; `cleanup`
    gets what ends a child. Raises what `prepare` and `Ready.run` raise.
    """
    return prepare(wanted, tell=tell, cleanup=cleanup, finders=finders).run(folder)


def judge_reports(
    checkpoint: Path,
    reports: Sequence[Path],
    *,
    baseline_reports: Sequence[Path] = (),
    limits: Limits | None = None,
) -> Verdict:
    """Judge what was recorded elsewhere: reports of profilers, and the run.json of an engine.

    Of the checkpoint only headers, config.json and plan.json are read. Raises BadInput and Missing
    for reports that cannot be read here, BadInput for a file that is given twice, for two timelines
    of one tool, and for a baseline that multiplies FP8.
    """
    expected = _expected(checkpoint)
    _check_once((*reports, *baseline_reports))
    run = _run_of(reports)
    if not run.traces:
        raise BadInput(
            "none of the files is a profiler's report", "give its .sqlite, .csv or trace .json"
        )
    before = _run_of(baseline_reports) if baseline_reports else None
    return _judged(expected, run, before, limits)


def _expected(checkpoint: Path) -> Expected:
    if not checkpoint.is_dir() and is_hub_id(str(checkpoint)):
        what = f"{checkpoint}: no such folder, and a checkpoint is verified from one"
        name = checkpoint.name
        raise BadModel(what, f"fetch it: hf download {checkpoint} --local-dir {name}; give {name}")
    if checkpoint.is_file():
        what = f"{checkpoint} is a file, and a checkpoint is a folder"
        raise BadModel(what, "give the folder that fp8scope build wrote")
    return read_expected(checkpoint)


def _check_baseline(model: str, expected: Expected) -> None:
    """Of one that lies here: it would be loaded last, when the checkpoint has run."""
    if not Path(model).is_dir() and is_hub_id(model):
        return
    other = read_expected(Path(model))
    if any(group.stored != "bf16" for group in other.groups):
        raise BadInput(f"the baseline {model} is quantized itself", "give the BF16 model")
    wanted, found = _sizes(expected), _sizes(other)
    for name in (*wanted, *found):
        if wanted.get(name) != found.get(name):
            here, there = (_shown(sizes.get(name)) for sizes in (wanted, found))
            what = f"the baseline {model} is another model: {name} is {there}, and {here} in "
            raise BadInput(f"{what}{expected.folder}", "give the model that it was made of")


def _sizes(of: Expected) -> dict[str, tuple[int, int]]:
    """Of linears that lie in files alike, quantized or not."""
    linears = (linear for group in of.groups for linear in group.linears)
    return {x.runtime: (x.out_features, x.in_features) for x in linears if x.kind == "linear"}


def _shown(size: tuple[int, int] | None) -> str:
    return " x ".join(map(str, size)) if size else "not there"


def _judged(expected: Expected, run: Run, baseline: Run | None, limits: Limits | None) -> Verdict:
    return judge(
        expected, run, baseline, estimate=_estimate(expected, run), limits=limits or Limits()
    )


def _estimate(expected: Expected, run: Run) -> Estimate | None:
    """The roofline of what ran; None where the GPU or the load is not known."""
    if run.record is None or run.record.device.kind == "cpu" or run.record.device.mig:
        return None
    device, load = run.record.device, run.record.load
    gpu = gpu_of_device(device.name, device.memory_bytes)
    if gpu is None:
        return None
    workload = Workload(load.batch, load.prompt_len, load.gen_len)
    try:
        return estimate(read_served(expected.folder), gpu, tp=device.count, workload=workload)
    except BadInput:  # a model of which nothing can be estimated is verified all the same
        return None


def _run_of(reports: Sequence[Path]) -> Run:
    records = {path: found for path in reports if (found := _record(path)) is not None}
    if len(records) > 1:
        first, second = list(records)[:2]
        raise BadInput(f"{first} and {second} are two runs", "give the run.json of one")
    traces = tuple(read_trace(path) for path in reports if path not in records)
    return Run(traces, next(iter(records.values()), None), elsewhere=True)


def _check_once(paths: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        place = realpath(path)
        if place in seen:
            first = seen[place]
            what = f"{path} is given twice" + (f", first as {first}" if first != path else "")
            raise BadInput(what, "leave one out")
        seen[place] = path


def _record(path: Path) -> RunRecord | None:
    """The run.json at `path`; None where it is something else."""
    try:
        if path.stat().st_size > 1 << 24:
            return None
        data: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or data.get("format") != "fp8scope-run":
        return None
    try:
        return RunRecord.model_validate(data)
    except ValidationError as error:
        raise BadInput(f"{path}: {first_fault(error)}", "run it again with this release") from error


def _device(wanted: Wanted) -> Used:
    gpus = () if wanted.where == "cpu" else present()
    used = use_one(gpus)
    if not gpus and wanted.where != "cpu":
        used = replace(used, notes=unlisted())
    if used.gpu is None and (wanted.require_gpu or wanted.where == "cuda"):
        what = "there is no NVIDIA GPU here" + (f": {used.notes[0]}" if used.notes else "")
        raise Missing(what, "run this where there is one, or judge its reports with --report")
    return used


def _engine(wanted: Wanted, load: Load, *, cuda: bool) -> Engine:
    if wanted.engine == "vllm":
        return Vllm()
    if wanted.engine == "trtllm":
        return Trtllm()
    if wanted.engine == "command":
        return Command(wanted.command)
    return Native(
        Order(
            str(wanted.checkpoint),
            "",
            "timing",
            "none",
            "cuda" if cuda else "cpu",
            load.batch,
            load.prompt_len,
            load.gen_len,
        )
    )
