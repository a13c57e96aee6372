"""verify from end to end: a checkpoint runs under profilers, or was run elsewhere; then judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fp8scope.artefacts.json_file import first_fault
from fp8scope.artefacts.verdict import Verdict
from fp8scope.core.gpus import gpu_of_device
from fp8scope.core.roofline import Workload
from fp8scope.errors import BadInput, Missing
from fp8scope.estimate.api import Estimate, estimate, read_served
from fp8scope.judge.expected import Expected, read_expected
from fp8scope.judge.verdict import Limits, Run, judge
from fp8scope.traces.reading import read_trace
from fp8scope.traces.record import RunRecord
from fp8scope.verify.devices import Used, present, use_one
from fp8scope.verify.engines.command import Command
from fp8scope.verify.engines.engine import Engine, Task
from fp8scope.verify.engines.native import Native
from fp8scope.verify.engines.trtllm import Trtllm
from fp8scope.verify.engines.vllm import Vllm
from fp8scope.verify.order import Order
from fp8scope.verify.profilers.choose import Finders, choose
from fp8scope.verify.session import Session
from fp8scope.verify.wanted import Wanted


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
    gets what ends a child. Raises BadInput and BadModel (no such checkpoint, nothing to run),
    Missing (no GPU where one is required; an engine or profiler that is not here), ChildFailed (it
    crashed or hung: what it left stays in the folder), and what reading reports raises.
    """
    expected = read_expected(wanted.checkpoint)
    used = _device(wanted)
    cuda = used.gpu is not None
    load = wanted.load(cuda=cuda)
    engine = _engine(wanted, cuda=cuda)
    engine.version()
    choice = choose(wanted.profiler, cuda=cuda, finders=finders or Finders.of(used.gpu))
    session = Session(
        engine,
        choice,
        used,
        wanted.timeout_s,
        tell,
        cleanup if cleanup is not None else ExitStack(),
    )
    task = Task(
        str(wanted.checkpoint),
        load,
        environment=used.environment,
        options=wanted.options,
        repeats=wanted.repeats,
    )
    tell(f"running {wanted.checkpoint} ({wanted.engine})")
    found = session.gather(task, folder / "checkpoint")
    before = None
    if wanted.baseline is not None:
        tell(f"running the baseline {wanted.baseline}")
        of = Task(wanted.baseline, load, True, used.environment, wanted.options, wanted.repeats)
        before = session.gather(of, folder / "baseline")
    return _judged(expected, found, before, wanted.limits)


def judge_reports(
    checkpoint: Path,
    reports: Sequence[Path],
    *,
    baseline_reports: Sequence[Path] = (),
    limits: Limits | None = None,
) -> Verdict:
    """Judge what was recorded elsewhere: reports of profilers, and the run.json of an engine.

    Of the checkpoint only headers, config.json and plan.json are read. Raises BadInput and Missing
    for reports that cannot be read here.
    """
    expected = read_expected(checkpoint)
    before = _run_of(baseline_reports) if baseline_reports else None
    return _judged(expected, _run_of(reports), before, limits)


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
    traces = tuple(read_trace(path) for path in reports if path not in records)
    if not traces:
        raise BadInput(
            "none of the files is a profiler's report", "give its .sqlite, .csv or trace .json"
        )
    if len(records) > 1:
        first, second = list(records)[:2]
        raise BadInput(f"{first} and {second} are two runs", "give the run.json of one")
    record = next(iter(records.values()), None)
    return Run(traces, record)


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
    used = use_one(() if wanted.where == "cpu" else present())
    if used.gpu is None and (wanted.require_gpu or wanted.where == "cuda"):
        what = "there is no NVIDIA GPU here" + (f": {used.notes[0]}" if used.notes else "")
        raise Missing(what, "run this where there is one, or judge its reports with --report")
    return used


def _engine(wanted: Wanted, *, cuda: bool) -> Engine:
    if wanted.engine == "vllm":
        return Vllm()
    if wanted.engine == "trtllm":
        return Trtllm()
    if wanted.engine == "command":
        return Command(wanted.command)
    load = wanted.load(cuda=cuda)
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
