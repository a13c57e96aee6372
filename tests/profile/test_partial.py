"""What is kept while a scan runs: two files in turn, whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fp8scope.errors import CannotResume, CannotWrite
from fp8scope.profile.partial import Partials
from fp8scope.profile.reader import read_profile
from fp8scope.profile.record import Profile
from fp8scope.profile.writer import write_profile
from tests.profiles import build, differences


def part(done: int) -> Profile:
    return build(complete=False, batches_done=done)


def done(partials: Partials) -> int:
    kept = partials.load()
    assert kept is not None
    return kept.batches_done


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.h5"


def test_nothing_kept(output: Path) -> None:
    assert not Partials(output).exist()
    assert Partials(output).load() is None


def test_two_files_in_turn_and_the_newer_wins(output: Path) -> None:
    partials = Partials(output)
    for number in (1, 2, 3):
        partials.save(part(number))
        assert done(Partials(output)) == number
    kept = [read_profile(path, unfinished=True).batches_done for path in partials.paths]
    assert kept == [3, 2]
    found = partials.load()
    assert found is not None
    assert differences(found, part(3)) == []


def test_going_on_overwrites_the_older(output: Path) -> None:
    first = Partials(output)
    for number in (1, 2, 3):
        first.save(part(number))
    again = Partials(output)
    assert done(again) == 3
    again.save(part(4))
    kept = [read_profile(path, unfinished=True).batches_done for path in again.paths]
    assert kept == [3, 4]


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "foreign"])
def test_a_damaged_newer_falls_back_to_the_older(output: Path, damage: str) -> None:
    partials = Partials(output)
    partials.save(part(1))
    partials.save(part(2))
    whole = partials.paths[1].read_bytes()
    flipped = bytearray(whole)
    flipped[20] ^= 1
    harmed = {"cut": whole[:-100], "empty": b"", "flip": bytes(flipped), "foreign": b"text"}
    partials.paths[1].write_bytes(harmed[damage])
    fresh = Partials(output)
    assert done(fresh) == 1
    fresh.save(part(3))  # takes the place of the damaged one
    assert done(Partials(output)) == 3
    assert read_profile(partials.paths[0], unfinished=True).batches_done == 1


def test_all_damaged_cannot_be_resumed(output: Path) -> None:
    partials = Partials(output)
    partials.save(part(1))
    partials.save(part(2))
    for path, size in zip(partials.paths, (0, 900), strict=True):
        os.truncate(path, size)
    with pytest.raises(CannotResume, match="no kept partial is readable"):
        Partials(output).load()


def test_remove_takes_both(output: Path) -> None:
    partials = Partials(output)
    partials.save(part(1))
    partials.save(part(2))
    partials.remove()
    partials.remove()
    assert list(output.parent.iterdir()) == []


# ---- a full disk


def test_a_failing_fsync_leaves_the_old_file(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profile(part(1), output)
    before = output.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CannotWrite, match="No space left on device"):
            write_profile(part(2), output)
    assert output.read_bytes() == before
    assert list(output.parent.iterdir()) == [output]


LIMITED = """
import resource, signal, sys
from pathlib import Path
from fp8scope.errors import CannotWrite
from fp8scope.profile.partial import Partials
from fp8scope.profile.writer import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically(Path(sys.argv[1]), bytes(100_000))
except CannotWrite as error:
    print(error)
"""


def test_a_write_cut_short_leaves_the_old_file(output: Path) -> None:
    output.write_bytes(b"old")
    shown = subprocess.run(
        [sys.executable, "-c", LIMITED, str(output)], capture_output=True, text=True, check=True
    )
    assert f"cannot write {output} (0.1 MB)" in shown.stdout
    assert output.read_bytes() == b"old"
    assert list(output.parent.iterdir()) == [output]
