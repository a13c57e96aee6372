"""The command in this process: what it prints and how it exits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fp8scope.cli.app import main
from tests.cli import folders


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one line that says why, which is the last."""
        lines = self.err.splitlines()
        assert [line.startswith("fp8scope: ") for line in lines].count(True) == 1, self.err
        assert lines[-1].startswith("fp8scope: ")
        assert "Traceback" not in self.err
        return lines[-1]


Fp8scope = Callable[..., Ran]


@pytest.fixture
def fp8scope(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fp8scope:
    """`fp8scope(*words)` runs the command line without a new process."""

    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["fp8scope", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.make(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def own_model(model: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return folders.copy(model, tmp_path / "model")


@pytest.fixture
def scan(fp8scope: Fp8scope, model: Path, tmp_path: Path) -> Fp8scope:
    """`scan(*options)` scans the small model and its text into out.h5, quickly."""

    def run(*options: object) -> Ran:
        return fp8scope(
            "scan", model, "--calib", model / "text.txt", "--seq-len", 32, "--samples", 6,
            "--batch-tokens", 32, "-o", tmp_path / "out.h5", *options,
        )  # fmt: skip

    return run
