"""One bash for a page: what a command leaves (files, variables, folder) is there for the next."""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.docs import warm
from tests.docs.pages import ROOT

# `browse` wants a terminal and a person; it gets both.
FP8SCOPE = """#!/bin/bash
[ "$1" = browse ] && exec {python} -m tests.docs.terminal "$@"
exec {python} -ISc {client} "$@"
"""


@dataclass(frozen=True)
class Ran:
    code: int
    output: str


class Shell:
    """`with Shell(folder) as shell: shell.run("fp8scope analyze profile.h5")`."""

    def __init__(self, folder: Path) -> None:
        tools = folder.parent / "bin"
        tools.mkdir()
        python = shlex.quote(sys.executable)
        for name, text in {
            "fp8scope": FP8SCOPE.format(python=python, client=shlex.quote(_client())),
            "python": f'#!/bin/bash\nexec {python} "$@"\n',
            "gh": "#!/bin/bash\ncat > comment.md\n",  # GitHub's, which examples pipe into
        }.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_environment(tools, folder),
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        self.run("set -o pipefail")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._bash.stdin
        assert self._bash.stdout
        self._bash.stdin.close()
        if error is not None:
            self._bash.kill()
        self._bash.wait()
        self._bash.stdout.close()

    def run(self, command: str) -> Ran:
        """Exit code and output of a command, stdout and stderr as they came."""
        assert self._bash.stdin
        assert self._bash.stdout
        mark = uuid.uuid4().hex
        self._bash.stdin.write(
            f"eval {shlex.quote(command)} </dev/null\nprintf '%s %d\\n' {mark} $?\n"
        )
        self._bash.stdin.flush()
        said = ""
        for line in self._bash.stdout:
            before, found, code = line.partition(mark)
            said += before
            if found:
                return Ran(int(code), said)
        raise AssertionError(f"bash itself ended in “{command}”: {said}")


@cache
def _client() -> str:
    """A program that has fp8scope run in this worker's own server, which is started here."""
    path = str(Path(tempfile.mkdtemp(prefix="fp8scope-docs-")) / "line")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.docs.warm", path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    atexit.register(_end, server, Path(path).parent)
    assert server.stdout
    assert server.stdout.readline() == b"ready\n"
    return warm.client(path)


def _end(server: subprocess.Popen[bytes], folder: Path) -> None:
    server.kill()
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)  # pytest may have cleared up already


def _environment(tools: Path, folder: Path) -> dict[str, str]:
    own = {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",  # stdout and stderr in the order of a terminal
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
        "LC_ALL": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
    }
    return {**os.environ, **own}
