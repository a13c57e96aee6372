"""The folder of reports: private, kept, and nothing of anybody else's ever deleted."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from fp8scope.errors import BadInput, CannotWrite, ChildFailed, OutputExists
from fp8scope.verify.folder import MARKER, new_folder, reports_folder


def test_it_lies_beside_the_verdict() -> None:
    names = {"verdict.json": "verdict", "h200.verdict.json": "h200.verdict", "out": "out"}
    for output, name in names.items():
        assert reports_folder(Path("runs", output)) == Path("runs", f"{name}.reports")


def used(folder: Path) -> Path:
    with new_folder(folder, force=False):
        (folder / "report.sqlite").write_text("an earlier one")
    return folder


def test_others_cannot_look_into_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = used(tmp_path / "verdict.reports")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert json.loads((folder / MARKER).read_text())["format"] == "fp8scope-session"


def test_reports_of_an_earlier_run_need_force(tmp_path: Path) -> None:
    folder = used(tmp_path / "verdict.reports")
    with pytest.raises(OutputExists, match=r"holds the reports of an earlier run → .*--force"):
        used(folder)
    assert (folder / "report.sqlite").exists()
    with new_folder(folder, force=True):
        assert [path.name for path in folder.iterdir()] == [MARKER]


@pytest.mark.parametrize(
    "mark",
    [None, "", "{", "[]", '{"format": "chrome-session"}', "[" * 10_000],
    ids=["none", "empty", "half", "list", "another's", "deep"],
)
def test_what_is_not_ours_is_not_deleted(mark: str | None, tmp_path: Path) -> None:
    """Others have files called session.json too."""
    folder = tmp_path / "verdict.reports"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years")
    if mark is not None:
        (folder / MARKER).write_text(mark)
    for force in (False, True):
        with (
            pytest.raises(BadInput, match=r"is no folder of reports that fp8scope verify made"),
            new_folder(folder, force=force),
        ):
            raise AssertionError
    assert (folder / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize("target", ["a folder of ours", "a file", "nothing"])
def test_a_link_is_not_followed(target: str, tmp_path: Path) -> None:
    away = tmp_path / "away"
    if target == "a folder of ours":
        used(away)
    elif target == "a file":
        away.write_text("x")
    link = tmp_path / "verdict.reports"
    link.symlink_to(away)
    with pytest.raises(BadInput, match="is no folder of reports"), new_folder(link, force=True):
        raise AssertionError
    assert link.is_symlink()
    assert away.exists() == (target != "nothing")


def test_a_file_in_its_place_stays(tmp_path: Path) -> None:
    path = tmp_path / "verdict.reports"
    path.write_text("x")
    with pytest.raises(BadInput, match="is no folder of reports"), new_folder(path, force=True):
        raise AssertionError
    assert path.read_text() == "x"


def hang(folder: Path) -> None:
    with new_folder(folder, force=False):
        (folder / "half").write_text("half")
        raise ChildFailed("hung", "")


def test_reports_stay_where_a_run_fails(tmp_path: Path) -> None:
    folder = tmp_path / "verdict.reports"
    with pytest.raises(ChildFailed, match="hung"):
        hang(folder)
    assert (folder / "half").exists()


def test_an_empty_one_goes(tmp_path: Path) -> None:
    folder = tmp_path / "verdict.reports"
    with pytest.raises(BadInput, match="refused"), new_folder(folder, force=False):
        raise BadInput("refused", "")
    assert not folder.exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with (
        pytest.raises(CannotWrite, match=r"verdict\.reports: No such file or directory → give"),
        new_folder(tmp_path / "no" / "verdict.reports", force=False),
    ):
        raise AssertionError
