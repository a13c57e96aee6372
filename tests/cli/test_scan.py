"""`scan` and `merge` from the command line: what they write, and how a scan goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fp8scope.observe.scan import Events
from fp8scope.profile.partial import Partials
from fp8scope.profile.reader import read_profile
from tests.cli.conftest import Fp8scope
from tests.observe import scans

COMMAND = [sys.executable, "-W", "ignore", "-m", "fp8scope"]


def _interrupt_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Ctrl-C had come during that batch; 0 undoes it."""
    original: Any = _interrupt_after.__dict__.setdefault("original", Events.__init__)

    def init(self: Events, **hooks: Any) -> None:
        original(self, **hooks)
        told = hooks["batch"]

        def batch(done: int, total: int, tokens: int) -> None:
            told(done, total, tokens)
            if done == batches:
                signal.raise_signal(signal.SIGINT)

        self.batch = batch

    monkeypatch.setattr(Events, "__init__", init if batches else original)


def test_scan_writes_a_profile_and_json(scan: Fp8scope, tmp_path: Path) -> None:
    ran = scan("--json")
    assert ran.code == 0
    data = json.loads(ran.out)
    path = tmp_path / "out.h5"
    profile = read_profile(path)
    assert data["profile"] == str(path)
    assert data["sites"] == len(profile.sites) + len(profile.weights)
    assert data["tokens"] == int(profile.samples["length"].sum())
    assert {row["module"] for row in data["rows"]} >= set(profile.weights)
    assert f"next: fp8scope analyze {path}" in ran.err
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]


def test_scan_prints_a_table_on_stdout_and_words_on_stderr(scan: Fp8scope) -> None:
    ran = scan("--record", "full", "--dtype", "float32")
    assert "body SQNR" in ran.out
    assert "wrote" not in ran.out
    assert "wrote" in ran.err


def test_dtypes_have_short_names(scan: Fp8scope, tmp_path: Path) -> None:
    for short, dtype in (("bf16", "bfloat16"), ("fp16", "float16"), ("float32", "float32")):
        assert scan("--dtype", short, "--force").code == 0
        assert read_profile(tmp_path / "out.h5").settings["dtype"] == dtype


def test_the_same_command_gives_the_same_profile(scan: Fp8scope, tmp_path: Path) -> None:
    assert scan("-o", tmp_path / "1.h5").code == scan("-o", tmp_path / "2.h5").code == 0
    scans.assert_identical(read_profile(tmp_path / "1.h5"), read_profile(tmp_path / "2.h5"))


def test_pickled_weights_load_when_allowed(
    fp8scope: Fp8scope, scan: Fp8scope, own_model: Path, tmp_path: Path
) -> None:
    from tests.cli import folders

    folders.pickle_weights(own_model)
    text, pickled = own_model / "text.txt", tmp_path / "pickled.h5"
    ran = fp8scope(
        "scan", own_model, "--calib", text, "--allow-pickle", "--seq-len", 32, "--samples", 6,
        "--batch-tokens", 32, "-o", pickled,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert scan().code == 0
    mine, theirs = read_profile(pickled), read_profile(tmp_path / "out.h5")
    for site, record in theirs.sites.items():
        np.testing.assert_array_equal(mine.sites[site].histogram, record.histogram)


@pytest.mark.parametrize("batches", [1, 4])
def test_ctrl_c_keeps_and_resume_finishes(
    batches: int, scan: Fp8scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole.h5", tmp_path / "out.h5"
    assert scan("-o", whole).code == 0
    _interrupt_after(batches, monkeypatch)
    ran = scan("--force")
    _interrupt_after(0, monkeypatch)
    assert ran.code == 130
    assert f"stopped after {batches} of 6 batches" in ran.refusal
    assert "go on with: fp8scope scan" in ran.refusal
    assert ran.refusal.endswith("--resume")
    assert "--force" not in ran.refusal
    assert not output.exists()
    assert Partials(output).exist()

    again = scan()
    assert again.code == 2
    assert "--resume" in again.refusal
    assert "--force" in again.refusal
    other = scan("--resume", "--seed", 5)
    assert other.code == 2
    assert "seed: 0 then, 5 now" in other.refusal
    assert Partials(output).exist()

    resumed = scan("--resume")
    assert resumed.code == 0, resumed.err
    assert f"resuming after {batches} batches" in resumed.err
    assert not Partials(output).exist()
    scans.assert_identical(read_profile(output), read_profile(whole))

    complete = scan("--resume", "--json")
    assert complete.code == 0
    assert "complete already" in complete.err
    assert json.loads(complete.out)["profile"] == str(output)


def test_force_drops_a_kept_partial(
    scan: Fp8scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupt_after(2, monkeypatch)
    assert scan().code == 130
    _interrupt_after(0, monkeypatch)
    assert scan("--force", "--seed", 3).code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]
    assert read_profile(tmp_path / "out.h5").settings["seed"] == 3


def test_resume_without_a_partial_starts_anew(scan: Fp8scope, tmp_path: Path) -> None:
    ran = scan("--resume")
    assert ran.code == 0
    assert "starting anew" in ran.err
    assert (tmp_path / "out.h5").exists()


def test_an_unreadable_partial_is_refused(scan: Fp8scope, tmp_path: Path) -> None:
    for path in Partials(tmp_path / "out.h5").paths:
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    ran = scan("--resume")
    assert ran.code == 2
    assert "--force" in ran.refusal


def test_merge(fp8scope: Fp8scope, scan: Fp8scope, model: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for i, path in enumerate(paths):
        text = tmp_path / f"{i}.txt"
        text.write_text((model / "text.txt").read_text().replace("truth", f"thing {i}"))
        ran = fp8scope("scan", model, "--calib", text, "--seq-len", 32, "--samples", 4, "-o", path)
        assert ran.code == 0
    both = tmp_path / "both.h5"
    ran = fp8scope("merge", *paths, "-o", both, "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["sequences"] == 8
    assert read_profile(both).tags == ("0", "1")
    for words, said in (
        ((*paths, "-o", both), "exists already"),
        ((paths[0], "-o", tmp_path / "c.h5"), "only one profile"),
        ((paths[0], both, "-o", tmp_path / "c.h5"), "would count twice"),
    ):
        ran = fp8scope("merge", *words)
        assert ran.code == 2
        assert said in ran.refusal
    assert scan("--dtype", "float32").code == 0
    ran = fp8scope("merge", paths[0], tmp_path / "out.h5", "-o", tmp_path / "c.h5")
    assert ran.code == 2
    assert "weights" in ran.refusal or "dtype" in ran.refusal
    assert not (tmp_path / "c.h5").exists()


# --- real processes ----------------------------------------------------------------------------


def test_the_demo_scans(tmp_path: Path) -> None:
    words = ["scan", "demo", "--samples", "6", "--seq-len", "32", "--json"]
    ran = subprocess.run(
        [*COMMAND, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    data = json.loads(ran.stdout)
    assert list(data["tags"]) == ["prose", "support", "code"]
    assert [path.name for path in tmp_path.iterdir()] == ["profile.h5"]


def test_a_refusal_is_exit_2(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*COMMAND, "analyze", "x.h5"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("fp8scope: cannot read x.h5")
    assert ran.stderr.count("\n") == 1


def test_a_real_ctrl_c(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text((model / "text.txt").read_text() * 4)
    words = ["scan", str(model), "--calib", str(text), "--seq-len", "32", "--batch-tokens", "32"]
    words += ["--samples", "60"]
    whole, output = tmp_path / "whole.h5", tmp_path / "out.h5"
    subprocess.run([*COMMAND, *words, "-o", str(whole)], check=True, capture_output=True)
    command = [*COMMAND, *words, "--keep-every", "0", "-o", str(output)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    partials = Partials(output)
    while not partials.exist() and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert out == ""
    assert "stopping after this batch" in err
    assert err.splitlines()[-1].startswith("fp8scope: stopped after ")
    assert f"go on with: fp8scope scan {model}" in err
    assert not output.exists()
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert not partials.exist()
    scans.assert_identical(read_profile(output), read_profile(whole))


def test_ctrl_c_while_loading(model: Path, tmp_path: Path) -> None:
    words = ["scan", str(model), "--calib", str(model / "text.txt"), "-o", str(tmp_path / "o.h5")]
    child = subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    child.stderr.readline()  # "loading torch …": the slow part begins
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert err.splitlines()[-1].startswith("fp8scope: ")
    assert list(tmp_path.iterdir()) == []
