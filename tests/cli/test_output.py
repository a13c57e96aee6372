"""Who may write an output: one command at a time, and only where something can be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fp8scope.cli.output import claim
from fp8scope.errors import BadInput, CannotWrite
from tests.cli.conftest import Fp8scope

HOLD = """
import sys
from pathlib import Path
from fp8scope.cli.output import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def _hold(path: Path) -> subprocess.Popen[str]:
    """Another process that has claimed `path`."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_second_scan_to_one_output_is_refused(scan: Fp8scope, tmp_path: Path) -> None:
    with _hold(tmp_path / "out.h5") as child:
        ran = scan("--force")
        assert ran.code == 2
        assert f"another fp8scope is writing {tmp_path / 'out.h5'} now" in ran.refusal
        assert "loading" not in ran.err
        assert (tmp_path / ".out.h5.lock").exists()
        child.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_scan_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    with _hold(path) as child:
        child.kill()
    assert [p.name for p in tmp_path.iterdir()] == [".out.h5.lock"]
    (tmp_path / ".out.h5.tmp").write_bytes(b"half")
    with claim(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_claim_outlives_a_lock_file_deleted_by_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    with claim(path):
        pass
    with claim(path), pytest.raises(BadInput, match="another fp8scope"), claim(path):
        pass


@pytest.mark.parametrize("path", ["/proc/x.h5", 300 * "x"])
def test_a_place_that_cannot_be_written_is_refused(path: str, scan: Fp8scope) -> None:
    with pytest.raises(CannotWrite, match="cannot write"), claim(Path(path)):
        pass
    ran = scan("-o", path)
    assert ran.code == 2
    assert f"cannot write {path}" in ran.refusal
    assert "loading" not in ran.err


def test_no_file_takes_the_place_of_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(BadInput, match="a device or a pipe"), claim(pipe):
        pass
    assert pipe.is_fifo()


def test_no_file_takes_the_place_of_an_open_one(tmp_path: Path) -> None:
    file, link = tmp_path / "out", tmp_path / "stdout"  # as /dev/stdout is of `> out`
    with file.open("w") as opened:
        link.symlink_to(f"/proc/self/fd/{opened.fileno()}")
        for output in (link, Path(f"/dev/fd/{opened.fileno()}")):
            with pytest.raises(BadInput, match="a device or a pipe"), claim(output):
                pass
    ordinary = tmp_path / "link"
    ordinary.symlink_to(file)
    with claim(ordinary):
        pass
