"""The command itself: help, and what it says of a fault of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Fp8scope


def test_without_arguments_it_helps(fp8scope: Fp8scope) -> None:
    ran = fp8scope()
    assert ran.code == 0
    assert ran.err == ""
    assert ran.out == fp8scope("--help").out
    assert len(ran.out.splitlines()) > 10


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--samples", 1),
        ("--samples", -5),
        ("--seq-len", 1),
        ("--batch-tokens", 0),
        ("--seed", -1),
        ("--seed", 2**64),
        ("--keep-every", -1),
        ("--keep-every", "nan"),
    ],
)
def test_an_option_out_of_range_is_named(option: str, value: object, fp8scope: Fp8scope) -> None:
    ran = fp8scope("scan", "demo", option, value)
    assert ran.code == 2
    assert f"Invalid value for '{option}'" in ran.refusal
    assert "loading" not in ran.err


def test_faults_of_the_text_come_before_torch(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{\n")
    code = (
        "import sys\n"
        "sys.argv = ['fp8scope', 'scan', './nowhere', '--calib', 'bad.jsonl']\n"
        "from fp8scope.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    print(done.code, 'torch' in sys.modules)"
    )
    root = str(Path(__file__).parents[2])
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=tmp_path, env={"PYTHONPATH": root},
    )  # fmt: skip
    assert ran.stdout == "2 False\n"
    assert "bad.jsonl:1 is not JSON" in ran.stderr


def test_a_file_name_that_is_no_utf8(fp8scope: Fp8scope, model: Path, tmp_path: Path) -> None:
    text = tmp_path / "caf\udce9.txt"
    text.write_text((model / "text.txt").read_text())
    path = tmp_path / "o\udce9.h5"
    words = ["--calib", text, "--seq-len", 32, "--samples", 6, "-o", path]
    ran = fp8scope("scan", model, *words)
    assert ran.code == 0, ran.err
    assert path.exists()
    shown = fp8scope("analyze", path, "--json")
    assert shown.code == 0
    assert r"caf\\udce9" in shown.out  # as JSON spells it


def test_a_refusal_holds_nothing_that_a_terminal_obeys(fp8scope: Fp8scope) -> None:
    ran = fp8scope("estimate", "./\x1b[31m\x07nowhere")
    assert ran.code == 2
    assert "./·[31m·nowhere" in ran.err
    assert "\x1b" not in ran.err
