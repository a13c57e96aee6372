"""The passes of one checkpoint: real children, real reports, and every way that they can end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8scope.errors import BadInput, ChildFailed, Missing
from fp8scope.traces.record import Load
from fp8scope.traces.trace import Sampled
from fp8scope.verify import session as sessions
from fp8scope.verify import supervise
from fp8scope.verify.devices import Used
from fp8scope.verify.engines.engine import Engine, Task
from fp8scope.verify.nvml import Samples, busiest
from fp8scope.verify.order import Watcher
from fp8scope.verify.profilers.choose import Choice, Profiler
from fp8scope.verify.profilers.ncu import find_ncu
from fp8scope.verify.profilers.torch import Torch
from fp8scope.verify.session import Session
from tests.verify import constructed
from tests.verify.constructed import Shell
from tests.verify.profilers import recorded
from tests.verify.profilers.fake import put_ncu
from tests.verify.test_supervise import number_in, runs

LOAD = Load(batch=8, prompt_len=2048, gen_len=128)
ENGINE: Engine = Shell(Path())
"""mypy holds it against the protocol."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_TERMINATE_S", 0.2)


@pytest.fixture
def task() -> Task:
    return Task(str(constructed.folders()[1]), LOAD)


def ncu(folder: Path, **said: Any) -> Profiler:
    put_ncu(folder / "bin", **said)
    return find_ncu(environment={"NCU": str(folder / "bin/ncu")})


def session(
    engine: Engine, *watchers: tuple[Watcher, Profiler], used: Used | None = None, **wishes: Any
) -> Session:
    """With these profilers, the timeline's first."""
    passes = (("timing", "none"), *(("tagged", name) for name, _ in watchers))
    choice = Choice(passes, dict(watchers), ("SM activity over time was not sampled",))  # type: ignore[arg-type]
    return Session(engine, choice, used or Used(None, {}), **wishes)


TORCH: tuple[Watcher, Profiler] = ("torch", Torch("2.13"))


def test_passes_are_run_one_by_one(task: Task, tmp_path: Path) -> None:
    engine, told = constructed.shell(tmp_path), list[str]()
    engine.scripts["torch"] += "; echo tagged >&2"
    watchers = TORCH, ("ncu", ncu(tmp_path))
    run = session(engine, *watchers, tell=told.append).gather(task, tmp_path / "reports")  # type: ignore[arg-type]
    assert engine.passes == ["fp8 none", "fp8 torch", "fp8 ncu"]
    assert [trace.tool for trace in run.traces] == ["torch", "ncu"]
    assert [Path(trace.path).parent.name for trace in run.traces] == ["torch", "ncu"]
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == [
        "ncu", "timing", "torch",
    ]  # fmt: skip
    assert run.record is not None
    assert run.record.speed.ttft_ms is not None
    assert run.record.notes == ("SM activity over time was not sampled",)
    assert told == ["tagged"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {"said": recorded.NCU_NO_PERMISSION, "leaves": False},
            "ncu gave nothing: ncu 2024.1.1.0 may not read the GPU's counters",
        ),
        ({"said": recorded.NCU_TAKEN, "leaves": False}, "another tool, such as DCGM, holds them"),
        ({"export": "==ERROR== Failed to load report"}, "ncu gave nothing: ncu 2024.1.1.0 cannot"),
    ],
    ids=["permission", "taken", "report"],
)
def test_without_counters_there_is_a_timeline_still(
    said: dict[str, Any], words: str, task: Task, tmp_path: Path
) -> None:
    engine = constructed.shell(tmp_path)
    both = session(engine, TORCH, ("ncu", ncu(tmp_path, **said)))
    run = both.gather(task, tmp_path / "reports")
    assert [trace.tool for trace in run.traces] == ["torch"]
    assert run.record is not None
    assert words in run.record.notes[-1]


def test_a_crash_under_the_second_profiler_is_a_note_too(task: Task, tmp_path: Path) -> None:
    engine = constructed.shell(tmp_path, ncu="echo replaying >&2; kill -SEGV $$")
    run = session(engine, TORCH, ("ncu", ncu(tmp_path))).gather(task, tmp_path / "reports")
    assert run.record is not None
    assert "ncu gave nothing: the profiled run crashed (SIGSEGV)" in run.record.notes[-1]


def test_a_baseline_is_timed_and_not_counted(task: Task, tmp_path: Path) -> None:
    """Nothing is judged by its counters, which take minutes."""
    engine = constructed.shell(tmp_path)
    baseline = replace(task, baseline=True)
    both = session(engine, TORCH, ("ncu", ncu(tmp_path)))
    assert [trace.tool for trace in both.gather(baseline, tmp_path / "reports").traces] == ["torch"]
    alone = session(engine, ("ncu", ncu(tmp_path)))
    assert [trace.tool for trace in alone.gather(baseline, tmp_path / "more").traces] == ["ncu"]


def test_counters_are_read_of_one_decode_step(task: Task, tmp_path: Path) -> None:
    engine = constructed.shell(tmp_path)
    session(engine, TORCH, ("ncu", ncu(tmp_path))).gather(task, tmp_path / "reports")
    assert engine.steps == {"torch": 4, "ncu": 1}


@pytest.mark.parametrize("first", ["torch", "ncu"])
def test_the_first_report_must_be_there(first: str, task: Task, tmp_path: Path) -> None:
    """Of a counters' pass as well, where it is the only one."""
    engine = constructed.shell(tmp_path, torch="kill -SEGV $$", ncu="kill -SEGV $$")
    watchers = [TORCH, ("ncu", ncu(tmp_path, leaves=False))][first == "ncu" :]
    with pytest.raises(ChildFailed, match=r"the profiled run crashed \(SIGSEGV\)"):
        session(engine, *watchers).gather(task, tmp_path / "reports")
    assert (tmp_path / "reports/timing/run.json").exists()
    assert (tmp_path / f"reports/{first}/stderr.txt").exists()
    assert engine.passes == ["fp8 none", f"fp8 {first}"]


def test_a_timeline_that_is_no_report_is_refused_and_kept(task: Task, tmp_path: Path) -> None:
    engine = constructed.shell(tmp_path, torch="echo '{\"traceEvents\": [' > trace.json")
    with pytest.raises(BadInput, match=r"torch/trace\.json is not JSON, or cut off"):
        session(engine, TORCH).gather(task, tmp_path / "reports")
    assert (tmp_path / "reports/torch/trace.json").exists()


def test_nothing_is_profiled_when_the_timing_failed(task: Task, tmp_path: Path) -> None:
    engine = constructed.shell(tmp_path, none="echo no kernel image >&2; exit 7")
    match = r"the timed run of .*fp8 failed with exit code 7: no kernel image"
    with pytest.raises(ChildFailed, match=match):
        session(engine, TORCH).gather(task, tmp_path / "reports")
    assert engine.passes == ["fp8 none"]


def test_what_a_child_refuses_is_refused_in_its_words(task: Task, tmp_path: Path) -> None:
    left = '{"what": "cuda is not here", "remedy": "use the CPU", "exit_code": 3}'
    engine = constructed.shell(tmp_path, none=f"echo '{left}' > error.json; exit 3")
    with pytest.raises(Missing, match=r"^cuda is not here → use the CPU$"):
        session(engine, TORCH).gather(task, tmp_path / "reports")


def test_a_hang_is_ended_with_all_that_it_started(task: Task, tmp_path: Path) -> None:
    script = "echo whole > half.json; sleep 60 & echo $! > grandchild; echo $$ > child; wait"
    engine = constructed.shell(tmp_path, torch=script)
    began = time.monotonic()
    with pytest.raises(ChildFailed) as refused:
        session(engine, TORCH, timeout_s=1).gather(task, tmp_path / "reports")
    assert time.monotonic() - began < 10
    folder = tmp_path / "reports/torch"
    assert refused.value.what == "the profiled run did not end within 1 s and was stopped"
    assert str(folder) in refused.value.remedy
    assert not runs(number_in(folder / "child"))
    assert not runs(number_in(folder / "grandchild"))
    assert (folder / "half.json").read_text() == "whole\n"


@contextmanager
def sampled(uuid: str) -> Iterator[Samples]:
    assert uuid == constructed.GPU.uuid
    samples = Samples(notes=["one metric is missing"])
    yield samples
    times = tuple(each * 1e5 for each in range(31))  # 3 s: a second of work in the middle
    busy = tuple(0.9 if 10 <= each < 21 else 0.1 for each in range(31))
    samples.sampled = tuple(Sampled(c, 0, times, busy) for c in ("sm_active", "warps_active"))


def test_a_gpu_is_sampled_while_it_is_timed(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "sampling", sampled)
    used = Used(constructed.GPU, {"CUDA_VISIBLE_DEVICES": "GPU-5f2c3a1e"}, ("2 GPUs are visible",))
    engine = constructed.shell(tmp_path)
    seen = Task(task.checkpoint, LOAD, environment=used.environment)
    run = session(engine, TORCH, used=used).gather(seen, tmp_path / "reports")
    assert engine.passes == ["fp8 none GPU-5f2c3a1e", "fp8 torch GPU-5f2c3a1e"]
    assert run.record is not None
    assert run.record.notes == (
        "2 GPUs are visible",
        "SM activity over time was not sampled",
        "one metric is missing",
        "NVML, in the busiest second of the timed run: SMs active 90%",
    )


def series(values: list[float], every_us: float) -> Sampled:
    return Sampled("sm_active", 0, tuple(i * every_us for i in range(len(values))), tuple(values))


def test_the_busiest_second() -> None:
    assert busiest([]) == ()
    assert busiest([series([], 1.0)]) == ()
    assert busiest([Sampled("warps_active", 0, (0.0,), (0.5,))]) == ()
    words = "NVML, in the busiest second of the timed run: SMs active "
    assert busiest([series([0.4], 1e5)]) == (words + "40%",)
    assert busiest([series([0.2, 0.4], 1e5)]) == (words + "30%",)  # less than a second: all of it
    # a spike of one sample is no second; 11 samples lie within one
    assert busiest([series([0.0] * 15 + [1.0] + [0.0] * 15, 1e5)]) == (words + "9%",)
    both = [series([0.8] * 30, 1e5), Sampled("dram_throughput", 0, (0.0, 2e6), (0.5, 0.7))]
    assert busiest(both) == (words + "80%, DRAM bandwidth 70%",)


def test_ctrl_c_reaches_the_child_by_the_stack_that_was_given(task: Task, tmp_path: Path) -> None:
    """As cli.interrupts closes it, in a handler of signals."""
    cleanup, ended = ExitStack(), list[int]()
    before = signal.getsignal(signal.SIGALRM)

    def handle(number: int, frame: object) -> None:
        cleanup.close()
        ended.append(number_in(tmp_path / "reports/timing/child"))

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        engine = constructed.shell(tmp_path, none="echo $$ > child; exec sleep 60")
        with pytest.raises(ChildFailed, match=r"crashed \(SIGINT\)"):
            session(engine, TORCH, cleanup=cleanup).gather(task, tmp_path / "reports")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not runs(ended[0])
