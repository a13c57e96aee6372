"""The folder of reports: what is ours is told from what is not, and a refusal leaves none."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fp8scope.errors import BadInput, Missing, OutputExists
from fp8scope.verify.folder import MARKER, new_folder, reports_folder


def test_it_is_beside_the_verdict_and_nobody_elses(tmp_path: Path) -> None:
    with new_folder(reports_folder(tmp_path / "v.json"), force=False) as folder:
        assert folder == tmp_path / "v.reports"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_reports_of_an_earlier_run_are_kept_unless_forced(tmp_path: Path) -> None:
    with new_folder(tmp_path / "r", force=False) as folder:
        (folder / "nsys.sqlite").touch()
    with pytest.raises(OutputExists, match="earlier run"), new_folder(folder, force=False):
        pass
    with new_folder(folder, force=True):
        assert [path.name for path in folder.iterdir()] == [MARKER]


@pytest.mark.parametrize("mark", ["", "{", '{"format": "theirs"}'])
def test_a_folder_of_somebody_else_is_left_alone(mark: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    (tmp_path / MARKER).write_text(mark)
    with (
        pytest.raises(BadInput, match="no folder of reports"),
        new_folder(tmp_path, force=True),
    ):
        pass
    assert (tmp_path / "thesis.tex").exists()


def refused(folder: Path, *, after: str = "") -> None:
    """A run that is refused, at once or `after` a pass."""
    with new_folder(folder, force=False):
        if after:
            (folder / after).mkdir()
        raise Missing("no GPU")


def test_what_failed_leaves_its_reports_and_no_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        refused(tmp_path / "r")
    assert not (tmp_path / "r").exists()
    with pytest.raises(Missing):
        refused(tmp_path / "r", after="checkpoint")
    assert (tmp_path / "r" / "checkpoint").is_dir()
