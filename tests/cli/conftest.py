"""The command in this process: what it prints and how it exits."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
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
def fp8scope(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Fp8scope:
    """`fp8scope(*words)` runs the command line without a new process.

    Where the command would end the process in a signal handler, it exits as any other.
    """
    monkeypatch.setattr("os._exit", sys.exit)
    monkeypatch.setenv("COLUMNS", "120")  # what there is without a terminal

    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["fp8scope", *map(str, words)])
        code = 0
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
        finally:  # the command listens to the end of its process
            for number, handler in before.items():
                signal.signal(number, handler)
        return Ran(code, *capfd.readouterr())

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


InterruptAt = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def interrupt_at() -> InterruptAt:
    """`with interrupt_at(owner, name, call=2, times=1)`: Ctrl-C during that call of a function."""

    @contextmanager
    def patched(owner: object, name: str, *, call: int = 1, times: int = 1) -> Iterator[None]:
        original = getattr(owner, name)
        calls = count(1)

        def interrupted(*arguments: object, **named: object) -> object:
            if next(calls) == call:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
            return original(*arguments, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, interrupted)
            yield

    return patched
