"""verify on the command line: what is refused, what it prints and writes, and how it exits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from fp8scope.artefacts.verdict_file import read_verdict
from fp8scope.demo.files import DEMO_MODEL
from fp8scope.traces.record import Device
from fp8scope.verify import api, folder
from fp8scope.verify.order import RUN, TORCH_TRACE
from tests.cli.conftest import Fp8scope, InterruptAt
from tests.verify import constructed
from tests.verify.constructed import BF16, DOWN, MARLIN, Shell
from tests.verify.test_supervise import number_in, runs

CPU = Device(kind="cpu", name="a processor")
COMMAND = [sys.executable, "-W", "ignore", "-m", "fp8scope"]


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "present", lambda: ())
    monkeypatch.setattr(api, "unlisted", lambda: ())


@pytest.fixture
def fp8() -> Path:
    return constructed.folders()[1]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "verdict.json"


@pytest.fixture
def reports(tmp_path: Path) -> tuple[str, str, str, str]:
    """Words of a run in which all is as planned."""
    trace, record = tmp_path / TORCH_TRACE, tmp_path / RUN
    constructed.trace(trace)
    constructed.record(record)
    return "--report", str(trace), "--report", str(record)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """In place of the native one, on a CPU."""
    made = constructed.shell(tmp_path)
    constructed.record(tmp_path / RUN, CPU)
    monkeypatch.setattr(api, "Native", lambda order: made)
    return made


def left(output: Path) -> list[str]:
    return sorted(path.name for path in output.parent.iterdir())


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--engine", "command"), "--engine command needs a command after --"),
        (("--", "python", "x.py"), "the native engine takes no words of its own (python)"),
        (("--baseline-report", "x.csv"), "--baseline-report goes with --report → give both"),
        (("--require-gpu", "--device", "cpu"), "--require-gpu and --device cpu exclude each other"),
        (("--report", "x", "--baseline", "y"), "--report runs nothing → leave out --baseline"),
        (("--report", "x", "--require-gpu"), "--report runs nothing → leave out --require-gpu"),
        (("--report", "x", "--device", "auto"), "--report runs nothing → leave out --device"),
        (("--report", "x", "--prompt-len", "9"), "--report runs nothing → leave out --prompt-len"),
        (("--report", "x", "--", "true"), "--report runs nothing → leave out what follows --"),
        (("--report", "x"), "x cannot be read: no such file"),
        (
            ("--min-speedup", "1.2"),
            "--min-speedup compares with a baseline, and none is given → give",
        ),
        (("--baseline", "no/such/model"), "no/such/model: no such folder"),
        (("--min-sm-active", "75"), "'--min-sm-active'"),
        (("--batch", "0"), "'--batch'"),
        (("--timeout", "0"), "'--timeout'"),
        (("--profiler", "vtune"), "'--profiler'"),
    ],
)
def test_what_does_not_go_together(
    words: tuple[str, ...], said: str, fp8scope: Fp8scope, fp8: Path, output: Path
) -> None:
    ran = fp8scope("verify", fp8, "-o", output, *words)
    assert ran.code == 2
    assert said in ran.refusal
    assert (ran.out, left(output)) == ("", [])


def test_the_demo_is_no_checkpoint(fp8scope: Fp8scope, output: Path) -> None:
    ran = fp8scope("verify", "demo", "-o", output)
    assert ran.code == 2
    assert "demo is a BF16 model, and verify runs an FP8 checkpoint → build one" in ran.refusal


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--require-gpu",), "there is no NVIDIA GPU here → run this where there is one"),
        (("--device", "cuda"), "there is no NVIDIA GPU here → run this where there is one"),
        (("--profiler", "nsys"), "--profiler nsys sees kernels of a GPU, and there is none here"),
        (("--engine", "trtllm"), "TensorRT-LLM is not installed"),
        (("--engine", "command", "--", "true"), "torch.profiler cannot be put around a command"),
    ],
)
def test_what_is_missing(
    words: tuple[str, ...], said: str, fp8scope: Fp8scope, fp8: Path, output: Path
) -> None:
    ran = fp8scope("verify", fp8, "-o", output, *words)
    assert ran.code == 3
    assert said in ran.refusal
    assert left(output) == []


def test_no_checkpoint(fp8scope: Fp8scope, output: Path, tmp_path: Path) -> None:
    for checkpoint, said in (
        ("org/name", "org/name: no such folder, and a checkpoint is verified from one → fetch it"),
        (tmp_path / "none", "no such folder"),
        (constructed.folders()[0], "bf16 is not quantized → give an FP8 checkpoint"),
        (tmp_path, "no weights → put model.safetensors there"),
    ):
        ran = fp8scope("verify", checkpoint, "-o", output)
        assert ran.code == 2
        assert said in ran.refusal
        assert left(output) == []


def test_the_place_of_the_output(
    fp8scope: Fp8scope, fp8: Path, output: Path, reports: tuple[str, ...], engine: Shell
) -> None:
    output.write_text("mine")
    for words, said in (
        (("-o", output), "verdict.json exists already → give another -o, or --force"),
        (("-o", output.parent), "out is a folder → give a file with -o"),
        (("-o", output.parent / "no" / "v.json"), "there is no folder"),
    ):
        for how in (reports, ()):
            ran = fp8scope("verify", fp8, *words, *how)
            assert ran.code == 2
            assert said in ran.refusal
    assert output.read_text() == "mine"
    assert left(output) == ["verdict.json"]
    assert not engine.log.exists()


# --- reports of elsewhere ------------------------------------------------------------------------


def test_all_in_fp8(fp8scope: Fp8scope, fp8: Path, output: Path, reports: tuple[str, ...]) -> None:
    ran = fp8scope("verify", fp8, "-o", output, *reports)
    assert ran.code == 0, ran.err
    assert "All 8 fused groups that are to run in FP8 do." in ran.out
    assert "NVIDIA H200" in ran.out
    assert left(output) == ["verdict.json"]  # nothing ran: there are no reports to keep
    verdict = read_verdict(output)
    assert verdict.passed
    assert verdict.ran.gpu_known_as == "h200-sxm"


@pytest.mark.parametrize(
    ("kernel", "cause"),
    [
        (BF16, "multiplies bf16, and the files hold FP8"),
        (MARLIN, "is a weight-only kernel: FP8 is dequantized"),
    ],
)
def test_one_layer_fell_back(
    kernel: str, cause: str, fp8scope: Fp8scope, fp8: Path, output: Path, tmp_path: Path,
    reports: tuple[str, ...],
) -> None:  # fmt: skip
    """Exit 1, and the layer, its kernel, cause and remedy are all there to read."""
    constructed.trace(tmp_path / TORCH_TRACE, {DOWN: kernel})
    ran = fp8scope("verify", fp8, "-o", output, *reports)
    assert ran.code == 1
    assert DOWN in ran.refusal
    assert kernel[:40] in ran.refusal
    assert ran.refusal.endswith(f"→ see {output}")
    shown = " ".join(ran.out.split())
    for part in (DOWN, kernel[:40], cause, "→ look in the engine's log"):
        assert part in shown
    assert not read_verdict(output).passed


def test_a_speed_that_is_asked_for(
    fp8scope: Fp8scope, fp8: Path, output: Path, reports: tuple[str, ...], tmp_path: Path
) -> None:
    slow = constructed.record(tmp_path / "slow.json", ttft=30.0, tpot=6.0)
    words = ("verify", fp8, "-o", output, *reports, "--baseline-report", slow, "--force")
    assert fp8scope(*words, "--min-speedup", 1.15).code == 0
    ran = fp8scope(*words, "--min-speedup", 1.4)
    assert ran.code == 1
    assert "times as fast as the baseline; 1.4 is asked" in ran.refusal


def test_json(fp8scope: Fp8scope, fp8: Path, output: Path, reports: tuple[str, ...]) -> None:
    ran = fp8scope("verify", fp8, "-o", output, *reports, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == json.loads(output.read_text())
    assert json.loads(ran.out)["format"] == "fp8scope-verdict"


def test_a_broken_report_leaves_the_old_verdict(
    fp8scope: Fp8scope, fp8: Path, output: Path, reports: tuple[str, ...], tmp_path: Path
) -> None:
    output.write_text("an earlier one")
    trace = tmp_path / TORCH_TRACE
    trace.write_text(trace.read_text()[:5000])
    ran = fp8scope("verify", fp8, "-o", output, *reports, "--force")
    assert ran.code == 2
    assert "trace.json is not JSON, or cut off" in ran.refusal
    assert output.read_text() == "an earlier one"
    assert left(output) == ["verdict.json"]


# --- runs ----------------------------------------------------------------------------------------


def test_a_run_without_a_gpu(fp8scope: Fp8scope, fp8: Path, output: Path, engine: Shell) -> None:
    engine.scripts["torch"] += "; echo halfway >&2"
    ran = fp8scope("verify", fp8, "-o", output)
    assert ran.code == 0, ran.err
    assert engine.passes == ["fp8 none", "fp8 torch"]
    lines = ran.err.splitlines()
    assert lines[:2] == [f"running {fp8} (native)", "halfway"]
    assert lines[2].startswith(f"wrote {output} (")
    assert left(output) == ["verdict.json", "verdict.reports"]
    reports = output.with_name("verdict.reports")
    assert sorted(path.name for path in reports.iterdir()) == ["checkpoint", folder.MARKER]
    assert (reports / "checkpoint/torch/trace.json").exists()
    sm_active = next(gate for gate in read_verdict(output).gates if gate.name == "sm_active")
    assert sm_active.outcome == "not_measured"


def test_the_demo_as_baseline(fp8scope: Fp8scope, fp8: Path, output: Path) -> None:
    ran = fp8scope("verify", fp8, "-o", output, "--baseline", "demo")
    assert ran.code == 2
    assert f"the baseline {DEMO_MODEL} is another model" in ran.refusal


def test_nothing_is_overwritten_unasked(
    fp8scope: Fp8scope, fp8: Path, output: Path, engine: Shell
) -> None:
    """Neither the verdict nor the reports, of which each may be there without the other."""
    assert fp8scope("verify", fp8, "-o", output).code == 0
    reports = output.with_name("verdict.reports")
    (reports / "old").touch()
    assert "verdict.json exists already" in fp8scope("verify", fp8, "-o", output).refusal
    output.unlink()
    again = fp8scope("verify", fp8, "-o", output)
    assert again.code == 2
    assert "verdict.reports holds the reports of an earlier run" in again.refusal
    assert left(output) == ["verdict.reports"]
    # what is refused before it runs takes nothing away
    assert fp8scope("verify", fp8, "-o", output, "--force", "--require-gpu").code == 3
    assert (reports / "old").exists()
    assert fp8scope("verify", fp8, "-o", output, "--force").code == 0
    assert not (reports / "old").exists()


def test_a_folder_of_somebody_elses(
    fp8scope: Fp8scope, fp8: Path, output: Path, engine: Shell
) -> None:
    reports = output.with_name("verdict.reports")
    reports.mkdir()
    (reports / folder.MARKER).write_text('{"cookies": []}')
    ran = fp8scope("verify", fp8, "-o", output, "--force")
    assert ran.code == 2
    assert "is no folder of reports that fp8scope verify made" in ran.refusal
    assert (reports / folder.MARKER).read_text() == '{"cookies": []}'
    assert not engine.log.exists()


def test_a_crash_keeps_what_there_is(
    fp8scope: Fp8scope, fp8: Path, output: Path, engine: Shell
) -> None:
    engine.scripts["torch"] = "echo half > half; kill -SEGV $$"
    ran = fp8scope("verify", fp8, "-o", output)
    assert ran.code == 2
    assert "the profiled run crashed (SIGSEGV)" in ran.refusal
    assert left(output) == ["verdict.reports"]
    assert (output.with_name("verdict.reports") / "checkpoint/torch/half").exists()


def test_a_hang(fp8scope: Fp8scope, fp8: Path, output: Path, engine: Shell) -> None:
    engine.scripts["none"] = "echo $$ > child; exec sleep 60"
    ran = fp8scope("verify", fp8, "-o", output, "--timeout", 0.5)
    assert ran.code == 2
    assert "did not end within" in ran.refusal
    assert not runs(number_in(output.with_name("verdict.reports") / "checkpoint/timing/child"))


def test_ctrl_c_before_anything_ran(
    fp8scope: Fp8scope, fp8: Path, output: Path, interrupt_at: InterruptAt
) -> None:
    with interrupt_at(api, "read_expected"):
        ran = fp8scope("verify", fp8, "-o", output)
    assert ran.code == 130
    assert ran.err == "fp8scope: interrupted\n"
    assert left(output) == []


@contextmanager
def started(*words: object) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, "verify", *map(str, words)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_a_child(
    fp8scope: Fp8scope, fp8: Path, output: Path, engine: Shell
) -> None:
    with started(fp8, "-o", output, "--repeats", 10**6) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("prefill 2/") for line in lines)
        children = psutil.Process(process.pid).children(recursive=True)
        assert any("fp8scope.verify.child" in child.cmdline() for child in children)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130
    reports = output.with_name("verdict.reports")
    kept, remedy = rest.splitlines()[-1].split(" → ")
    assert kept == f"fp8scope: interrupted, what was left is in {reports}"
    assert remedy == "run it again with --force, which empties that"
    assert "Traceback" not in rest
    assert not [child for child in children if child.is_running()]
    assert left(output) == ["verdict.reports"]
    assert (reports / "checkpoint/timing/stderr.txt").exists()
    again = fp8scope("verify", fp8, "-o", output)
    assert again.code == 2
    assert "holds the reports of an earlier run → give another -o, or --force" in again.refusal
    assert fp8scope("verify", fp8, "-o", output, "--force").code == 0
    shutil.rmtree(reports)
