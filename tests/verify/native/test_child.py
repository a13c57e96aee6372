"""A child process leaves a record, or says why not; nothing is half-written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fp8scope.artefacts.atomic import temporary_path
from fp8scope.errors import BadInput, Fp8scopeError, GateFailed, Missing
from fp8scope.traces.record import RunRecord
from fp8scope.verify import child
from fp8scope.verify.native.device import driver_version, is_mig
from fp8scope.verify.order import REFUSAL, RUN, Order, read_refusal, refusal
from tests.verify.native import engines

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def run(checkpoint: Path, **wishes: Any) -> subprocess.Popen[str]:
        (tmp_path / "run").mkdir()
        engines.order(checkpoint, tmp_path / "run", **wishes).write(tmp_path / "order.json")
        words = [sys.executable, "-m", "fp8scope.verify.child", str(tmp_path / "order.json")]
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)

    return run


def said(stderr: str) -> list[str]:
    """Our own lines: packages of this machine may have something to say of themselves."""
    return [line for line in stderr.splitlines() if line.startswith("fp8scope: ")]


def test_the_tagged_pass(start: Start, tmp_path: Path) -> None:
    process = start(engines.checkpoint("llama"), what="tagged", watcher="torch")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert said(stderr) == [
        "fp8scope: loading torch …",
        f"fp8scope: loading {engines.checkpoint('llama')} …",
        "fp8scope: tagged: a prefill of 2 × 9 tokens, 3 steps …",
    ]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [RUN, "trace.json"]
    record = RunRecord.model_validate_json((tmp_path / "run" / RUN).read_text())
    assert record.engine_version == f"torch {torch.__version__}"
    assert record.device.kind == "cpu"
    assert record.device.name
    assert set(record.runs_fp8) == set(record.held)
    assert (record.load.batch, record.load.prompt_len, record.load.gen_len) == (2, 9, 6)
    assert record.speed.ttft_ms is None


def test_stopped_in_the_middle(start: Start, tmp_path: Path) -> None:
    """By SIGTERM, as a supervisor does: 130, one line, nothing left, not even half a file."""
    half = temporary_path(tmp_path / "run" / RUN)
    process = start(engines.checkpoint("llama"), repeats=100_000)
    half.write_text("half")
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert any("prefill 2/" in line for line in lines)
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(timeout=30) == 130
    assert said(rest)[-1] == "fp8scope: interrupted"
    assert "Traceback" not in rest
    assert not list((tmp_path / "run").iterdir())
    process.stderr.close()


def run_here(order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(child, "_end_on_signals", lambda folder: None)  # not of the tests' own
    order.write(tmp_path / "order.json")
    return child.main(tmp_path / "order.json")


def test_the_timing_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = engines.order(engines.plain("llama"), tmp_path, baseline=True)
    assert run_here(order, tmp_path, monkeypatch) == 0
    record = RunRecord.model_validate_json((tmp_path / RUN).read_text())
    assert record.speed.tpot_ms is not None
    assert record.speed.tpot_ms.count == 15
    assert (record.held, record.runs_fp8, record.kv_cache) == ({}, (), "bf16")
    assert not (tmp_path / REFUSAL).exists()


def test_a_refusal_is_repeated_by_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order = engines.order(tmp_path / "nowhere", tmp_path)
    assert run_here(order, tmp_path, monkeypatch) == 2
    error = read_refusal(tmp_path)
    assert isinstance(error, BadInput)
    assert "nowhere" in error.what
    assert said(capsys.readouterr().err)[-1] == f"fp8scope: {error}"
    assert not (tmp_path / RUN).exists()


def test_no_cuda_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    order = engines.order(engines.checkpoint("llama"), tmp_path, device="cuda")
    assert run_here(order, tmp_path, monkeypatch) == 3
    assert isinstance(read_refusal(tmp_path), Missing)


def test_no_room_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("fp8scope.verify.native.timing.timed", full)
    order = engines.order(engines.checkpoint("llama"), tmp_path)
    assert run_here(order, tmp_path, monkeypatch) == 3
    error = read_refusal(tmp_path)
    assert error is not None
    assert error.what == f"cpu has no room for 2 × 9 tokens beside {engines.checkpoint('llama')}"


def test_a_fault_of_its_own_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal\nmemory access")

    monkeypatch.setattr("fp8scope.verify.native.timing.timed", fail)
    order = engines.order(engines.checkpoint("llama"), tmp_path)
    assert run_here(order, tmp_path, monkeypatch) == 70
    error = read_refusal(tmp_path)
    assert error is not None
    assert error.exit_code == 70
    assert "RuntimeError: CUDA error: an illegal memory access" in error.what
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "[]", '{"checkpoint": "x"}', '{"more": 1}'], ids=["empty", "list", "few", "other"]
)
def test_what_is_no_order(text: str, tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_text(text)
    with pytest.raises(BadInput, match="is no order for a run"):
        Order.read(path)


def test_an_order_is_read_as_it_was_written(tmp_path: Path) -> None:
    order = engines.order(tmp_path, tmp_path, weight_only=("a.b",), dtype="bfloat16")
    order.write(tmp_path / "order.json")
    assert Order.read(tmp_path / "order.json") == order
    engines.order(tmp_path, tmp_path, batch=0).write(tmp_path / "order.json")
    with pytest.raises(BadInput, match="batch is 0, not a number above 0"):
        Order.read(tmp_path / "order.json")


@pytest.mark.parametrize("kind", [BadInput, Missing, GateFailed])
def test_refusals_keep_their_kind(kind: type[Fp8scopeError], tmp_path: Path) -> None:
    (tmp_path / REFUSAL).write_bytes(refusal(kind("this is wrong", "do that")))
    error = read_refusal(tmp_path)
    assert type(error) is kind
    assert str(error) == "this is wrong → do that"
    (tmp_path / REFUSAL).write_text(json.dumps({"what": "x"}))
    assert read_refusal(tmp_path) is None


def test_drivers_and_slices() -> None:
    open_module = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release"
    own_module = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12"
    assert driver_version(open_module) == "580.65.06"
    assert driver_version(own_module) == "535.183.01"
    assert driver_version("") == ""
    assert is_mig("NVIDIA H200 MIG 1g.18gb", "")
    assert is_mig("NVIDIA H200", "MIG-6e8a0b8f")
    assert not is_mig("NVIDIA H200", "GPU-6e8a0b8f")
