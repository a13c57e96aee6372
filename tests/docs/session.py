"""Run a page, and compare what it shows."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import pages, reader
from tests.docs.matching import difference
from tests.docs.pages import Fence
from tests.docs.shell import Shell
from tests.report.browser import WITHOUT, chromium


def run(path: Path, tmp_path: Path, factory: pytest.TempPathFactory) -> None:
    """Every fence of the page that is to be run, in order."""
    folder = tmp_path / "session"
    folder.mkdir()
    reader.put(pages.given(path), folder, factory)
    names: dict[str, object] = {"__name__": "__main__"}
    printed: str | None = None
    left_out: list[Fence] = []
    with Shell(folder) as shell:
        for fence in pages.fences(path):
            if (file := fence.noted("file")) is not None:
                assert ".." not in Path(file).parts, f"{fence}: {file} is outside of the folder"
                (folder / file).write_text(fence.text)
            elif fence.noted("not run") is not None or fence.noted("command") is not None:
                pass
            elif fence.noted("needs") == "Chromium" and chromium() is None:
                left_out.append(fence)
            elif fence.noted("prints") is not None:
                assert printed is not None, f"{fence}: nothing was run above"
                _compare(fence.text.splitlines(), printed, str(fence))
            elif fence.language == "console":
                _run_console(fence, shell)
            elif fence.language == "python":
                printed = _run_python(fence, folder, names)
    if left_out:
        pytest.skip(f"run but for {', '.join(map(str, left_out))}: {WITHOUT}")


def _run_console(fence: Fence, shell: Shell) -> None:
    wanted = fence.noted("exit")
    commands = pages.commands(fence)
    for command in commands:
        expected = int(wanted) if wanted and command is commands[-1] else 0
        ran = shell.run(command.text)
        where = f"{pages.name(fence.path)}:{command.line}: {command.text}"
        assert ran.code == expected, f"{where}\nexit {ran.code}, not {expected}:\n{ran.output}"
        if command.shown:
            _compare(command.shown, ran.output, where)


def _run_python(fence: Fence, folder: Path, names: dict[str, object]) -> str:
    code = compile("\n" * fence.line + fence.text, str(fence), "exec")
    with _inside(folder), contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, names)  # noqa: S102  (our own pages)
    return said.getvalue()


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _compare(shown: tuple[str, ...] | list[str], real: str, where: str) -> None:
    wrong = difference(shown, real)
    assert wrong is None, f"{where}\n{wrong}\nIn full:\n{real}"
