"""The folder of reports: what is ours is told from what is not, and a refusal leaves none."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fp8scope.errors import BadInput, OutputExists
from fp8scope.verify.folder import MARKER, drop_empty, make_folder, reports_folder


def test_it_is_beside_the_verdict_and_nobody_elses(tmp_path: Path) -> None:
    folder = reports_folder(tmp_path / "v.json")
    make_folder(folder, force=False)
    assert folder == tmp_path / "v.reports"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_reports_of_an_earlier_run_are_kept_unless_forced(tmp_path: Path) -> None:
    make_folder(tmp_path / "r", force=False)
    (tmp_path / "r" / "nsys.sqlite").touch()
    with pytest.raises(OutputExists, match="earlier run"):
        make_folder(tmp_path / "r", force=False)
    make_folder(tmp_path / "r", force=True)
    assert [path.name for path in (tmp_path / "r").iterdir()] == [MARKER]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BadInput, match="no folder of reports"):
        make_folder(tmp_path, force=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_run_that_was_refused_is_not_in_the_way(tmp_path: Path) -> None:
    make_folder(tmp_path / "r", force=False)
    drop_empty(tmp_path / "r")
    assert not (tmp_path / "r").exists()
    make_folder(tmp_path / "r", force=False)
    (tmp_path / "r" / "checkpoint").mkdir()
    drop_empty(tmp_path / "r")
    assert (tmp_path / "r" / "checkpoint").is_dir()
