"""The folder of a build: whole under its name, or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fp8scope.artefacts.plan_file import write_plan
from fp8scope.build.folder import new_folder
from fp8scope.errors import BadInput, CannotWrite, OutputExists
from tests.export import plans, shapes


def build_at(output: Path, text: str, *, force: bool = False) -> None:
    with new_folder(output, force=force) as made:
        write_plan(
            plans.plan_of(shapes.planned(shapes.llama(), "fp8_tensor")), {}, _plan(made.path)
        )
        (made.path / "model.safetensors").write_text(text)
        (made.path / "config.json").write_text('{"quantization_config": {}}')
        made.publish()


def _plan(folder: Path) -> Path:
    return folder / "plan.json"


def _fail_half_way(folder: Path) -> None:
    (folder / "model.safetensors").write_text("half")
    raise RuntimeError("in the middle")


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_published_has_its_name_and_nothing_else_is_left(tmp_path: Path) -> None:
    build_at(tmp_path / "fp8", "weights")
    assert left(tmp_path) == ["fp8"]
    assert (tmp_path / "fp8" / "model.safetensors").read_text() == "weights"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "fp8") as made:
        _fail_half_way(made.path)
    assert left(tmp_path) == []


def test_what_a_killed_build_left_is_cleared_away(tmp_path: Path) -> None:
    stale = tmp_path / ".fp8.building"
    (stale / "inner").mkdir(parents=True)
    (stale / "model.safetensors").write_text("half")
    with new_folder(tmp_path / "fp8") as made:
        assert left(made.path) == []
        made.publish()
    assert left(tmp_path) == ["fp8"]


def test_two_builds_of_one_folder_do_not_mix(tmp_path: Path) -> None:
    with new_folder(tmp_path / "fp8") as first:
        (first.path / "config.json").write_text("{}")
        with pytest.raises(BadInput, match="another fp8scope is building"):
            new_folder(tmp_path / "fp8").__enter__()
        assert left(first.path) == ["config.json"]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    build_at(tmp_path / "fp8", "first")
    with pytest.raises(OutputExists, match="fp8 exists already"):
        new_folder(tmp_path / "fp8").__enter__()
    build_at(tmp_path / "fp8", "second", force=True)
    assert (tmp_path / "fp8" / "model.safetensors").read_text() == "second"
    assert left(tmp_path) == ["fp8"]


def test_only_builds_of_ours_are_ever_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "wedding.jpg").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for name, why in (("photos", "holds wedding.jpg"), ("file", "is no folder")):
        with pytest.raises(OutputExists, match=why):
            new_folder(tmp_path / name, force=True).__enter__()
    assert (tmp_path / "photos" / "wedding.jpg").read_text() == "dear"


@pytest.mark.parametrize("beside", ["profile.h5", "README.md", "tokenizers/mine"])
def test_a_build_with_something_of_the_users_is_kept(beside: str, tmp_path: Path) -> None:
    build_at(tmp_path / "fp8", "first")
    (tmp_path / "fp8" / beside).parent.mkdir(exist_ok=True)
    (tmp_path / "fp8" / beside).write_text("dear")
    with pytest.raises(OutputExists, match=f"holds {beside.partition('/')[0]}, which no build"):
        build_at(tmp_path / "fp8", "second", force=True)
    assert (tmp_path / "fp8" / beside).read_text() == "dear"
    assert left(tmp_path) == ["fp8"]


def test_a_folder_with_a_plan_alone_is_no_build(tmp_path: Path) -> None:
    build_at(tmp_path / "work", "first")
    (tmp_path / "work" / "config.json").unlink()
    with pytest.raises(OutputExists, match="was not built by fp8scope"):
        build_at(tmp_path / "work", "second", force=True)


def test_what_was_overwritten_comes_back_where_the_new_one_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is no error but Ctrl-C that comes between the two names."""
    build_at(tmp_path / "fp8", "first")
    honest = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name.endswith(".building"):
            raise KeyboardInterrupt
        return honest(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_at(tmp_path / "fp8", "second", force=True)
    assert left(tmp_path) == ["fp8"]
    assert (tmp_path / "fp8" / "model.safetensors").read_text() == "first"


def test_a_build_killed_between_the_two_names_loses_nothing(tmp_path: Path) -> None:
    build_at(tmp_path / "fp8", "first")
    (tmp_path / "fp8").rename(tmp_path / ".fp8.old")
    with pytest.raises(OutputExists):
        build_at(tmp_path / "fp8", "second")
    assert left(tmp_path) == ["fp8"]
    assert (tmp_path / "fp8" / "model.safetensors").read_text() == "first"


@pytest.mark.parametrize("name", [".", "/", "..", "fp8/.."])
def test_what_is_no_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="no name of a new folder"):
        new_folder(Path(name), force=True).__enter__()


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    for length in (250, 300):
        with pytest.raises(CannotWrite, match="File name too long"):
            new_folder(tmp_path / ("x" * length)).__enter__()


def test_an_overwritten_build_stays_where_the_new_one_fails(tmp_path: Path) -> None:
    build_at(tmp_path / "fp8", "first")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "fp8", force=True) as made:
        _fail_half_way(made.path)
    assert (tmp_path / "fp8" / "model.safetensors").read_text() == "first"


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with new_folder(tmp_path / "fp8") as made:
        (tmp_path / "fp8").mkdir()
        (tmp_path / "fp8" / "theirs").write_text("dear")
        with pytest.raises(OutputExists):
            made.publish()
    assert left(tmp_path) == ["fp8"]
    assert (tmp_path / "fp8" / "theirs").read_text() == "dear"


def test_no_place_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no folder .*nowhere"):
        new_folder(tmp_path / "nowhere" / "fp8").__enter__()


def test_a_name_that_cannot_be_given_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with new_folder(tmp_path / "fp8") as made:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CannotWrite, match=r"cannot write .*fp8: No space left on device"):
            made.publish()
    assert left(tmp_path) == []


def test_files_can_be_read_by_others(tmp_path: Path) -> None:
    with new_folder(tmp_path / "fp8") as made:
        path = made.path / "model.safetensors"
        path.touch(mode=0o600)
        made.publish()
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "fp8" / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask
