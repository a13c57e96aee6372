"""Ctrl-C at any moment: one line that says what is kept, exit 130, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import ModuleType

import pytest

from fp8scope.cli import scan as command
from fp8scope.cli.interrupts import Interrupts
from fp8scope.observe import scan as observe
from fp8scope.observe import weights
from fp8scope.observe.gradients import Gradients
from fp8scope.observe.recorder import Recorder
from fp8scope.profile import writer
from fp8scope.profile.partial import Partials
from fp8scope.profile.reader import read_profile
from fp8scope.report import analysis
from fp8scope.runtime import loading
from tests.cli.conftest import Fp8scope, InterruptAt
from tests.observe import scans

COMMAND = [sys.executable, "-W", "ignore", "-m", "fp8scope"]


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # as the shell leaves it to `command &` in a script
    try:
        Interrupts().listen()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_ctrl_c_in_a_weak_references_callback_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Thing: ...

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interrupts = Interrupts()
    interrupts.listen()
    try:
        interrupts.finishing = "this batch"
        thing = Thing()
        reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
        del thing
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert reference() is None
    assert interrupts.asked
    assert capfd.readouterr().err == "stopping after this batch (again to stop at once) …\n"


@pytest.mark.parametrize(
    ("where", "name", "said"),
    [
        (loading, "load", "interrupted, nothing is kept"),
        (command, "check_free", "interrupted, nothing is kept"),
        (observe, "record_weights", "stopped while reading weights; nothing is kept of that"),
        (Gradients, "run", "6 of 6 batches and 1 of the second pass → go on with: fp8scope scan"),
        (observe, "excerpt_table", "6 of the second pass → go on with: fp8scope scan"),
        (writer, "write_profile", "interrupted, {output} is complete"),
        (analysis, "where_it_hurts", "interrupted, {output} is complete"),
    ],
    ids=lambda value: value if isinstance(value, str) and "_" in value else "",
)
def test_ctrl_c_once(
    where: ModuleType, name: str, said: str, scan: Fp8scope, tmp_path: Path,
    interrupt_at: InterruptAt,
) -> None:  # fmt: skip
    path = tmp_path / "out.h5"
    with interrupt_at(where, name):
        ran = scan()
    assert ran.code == 130
    assert said.format(output=path) in ran.refusal
    assert ran.out == ""
    assert path.exists() == ("complete" in said)
    assert Partials(path).exist() == ("go on" in said)
    assert not [p for p in tmp_path.iterdir() if ".tmp" in p.name or ".lock" in p.name]
    assert scan("--resume").code == 0


@pytest.mark.parametrize("keep_every", [0, 1000])
@pytest.mark.parametrize(
    ("where", "name", "call"),
    [(Recorder, "run", 3), (writer, "write_profile", 1), (weights, "_record", 2)],
)
def test_ctrl_c_twice(
    where: object, name: str, call: int, keep_every: int, scan: Fp8scope, tmp_path: Path,
    interrupt_at: InterruptAt,
) -> None:  # fmt: skip
    with interrupt_at(where, name, call=call, times=2):
        ran = scan("--keep-every", keep_every)
    assert ran.code == 130
    kept = keep_every == 0 and name != "_record"
    said = "interrupted, go on with: fp8scope scan" if kept else "interrupted, nothing is kept"
    assert said in ran.refusal
    assert "(again to stop at once)" in ran.err
    assert [p.name for p in tmp_path.iterdir() if "partial" not in p.name] == []
    assert Partials(tmp_path / "out.h5").exist() == kept


def test_ctrl_c_while_weights_are_read_does_not_speak_of_batches(
    scan: Fp8scope, interrupt_at: InterruptAt
) -> None:
    with interrupt_at(weights, "_record"):
        ran = scan()
    assert ran.code == 130
    assert "stopping after this weight" in ran.err


# --- real processes ----------------------------------------------------------------------------


def test_a_real_ctrl_c(model: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text((model / "text.txt").read_text() * 4)
    words = ["scan", str(model), "--calib", str(long), "--seq-len", "32", "--batch-tokens", "32"]
    words += ["--samples", "30", "--sensitivity-samples", "4", "--candidates", "fp8_tensor"]
    whole, path = tmp_path / "whole.h5", tmp_path / "out.h5"
    subprocess.run([*COMMAND, *words, "-o", str(whole)], check=True, capture_output=True)
    command = [*COMMAND, *words, "--keep-every", "0", "-o", str(path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    partials = Partials(path)
    while not partials.exist() and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert out == ""
    assert "stopping after this batch" in err
    assert err.splitlines()[-1].startswith("fp8scope: stopped after ")
    assert f"go on with: fp8scope scan {model}" in err
    assert not path.exists()
    words += ["-o", str(path), "--resume"]  # now without writing everything after each batch
    subprocess.run([*COMMAND, *words], check=True, capture_output=True)
    assert not partials.exist()
    scans.assert_identical(read_profile(path), read_profile(whole))


def test_ctrl_c_while_loading(model: Path, tmp_path: Path) -> None:
    words = ["scan", "demo", "-o", str(tmp_path / "o.h5")]
    child = subprocess.Popen(
        [*COMMAND, *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert child.stderr is not None
    child.stderr.readline()  # "loading torch …": the slow part begins
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert err == "fp8scope: interrupted, nothing is kept\n"
    assert list(tmp_path.iterdir()) == []
