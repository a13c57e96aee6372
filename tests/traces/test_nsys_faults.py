"""What cannot be read: one clear line, with what to do."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from fp8scope.errors import BadInput
from fp8scope.traces.nsys import read_nsys, read_nsys_ranges
from tests.traces.nsys_file import FP8, REAL, Filled


def refused(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read_nsys(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert caught.value.remedy
    return line


def copy(folder: Path) -> Path:
    return Path(shutil.copyfile(REAL / "tagged.sqlite", folder / "run.sqlite"))


def test_no_file(tmp_path: Path) -> None:
    assert "cannot be read: no such file" in refused(tmp_path / "run.sqlite")


def test_a_folder(tmp_path: Path) -> None:
    assert "cannot be read: is a directory" in refused(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = copy(tmp_path)
    path.chmod(0)
    assert "cannot be read: permission denied" in refused(path)


@pytest.mark.parametrize("content", [b"", b"SQLite", b"NVIDIA Tegra Profiler Report 2023"])
def test_not_sqlite(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.sqlite"
    path.write_bytes(content)
    assert "is not an SQLite database" in refused(path)


@pytest.mark.parametrize("kept", [50, 100, 5000, -1])
def test_cut_off(tmp_path: Path, kept: int) -> None:
    path = copy(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    assert "was cut off" in refused(path)


def test_damaged_inside(tmp_path: Path) -> None:
    path = copy(tmp_path)
    data = bytearray(path.read_bytes())
    data[2048:] = bytes(len(data) - 2048)
    path.write_bytes(data)
    assert "is a damaged export of nsys" in refused(path)


def test_a_value_of_the_wrong_kind(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        file.launch(FP8, file.spans("prefill")[0], 10)
        file.sql("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET end = 'soon'")
    assert "is a damaged export of nsys" in refused(file.path)


def test_a_foreign_database(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE people (name TEXT)")
    database.close()
    assert "is an SQLite database, but no export of nsys" in refused(path)


def test_a_schema_that_is_not_known(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        file.launch(FP8, file.spans("prefill")[0], 10)
        file.sql("ALTER TABLE CUPTI_ACTIVITY_KIND_KERNEL RENAME COLUMN correlationId TO cause")
    assert "its table CUPTI_ACTIVITY_KIND_KERNEL has no column correlationId" in refused(file.path)


@pytest.mark.parametrize("kind", ["-wal", "-journal"])
def test_still_being_written(tmp_path: Path, kind: str) -> None:
    path = copy(tmp_path)
    path.with_name(path.name + kind).write_bytes(b"pages")
    assert f"is still being written: run.sqlite{kind} lies beside it" in refused(path)


def test_locked_by_another_program_is_read_all_the_same(tmp_path: Path) -> None:
    path = copy(tmp_path)
    other = sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    assert len(read_nsys_ranges(path)) == 177
    other.close()


def test_nothing_is_written_beside_or_into_it(tmp_path: Path) -> None:
    path = copy(tmp_path)
    before = path.read_bytes()
    read_nsys_ranges(path)
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["run.sqlite"]


def test_a_name_with_signs_of_a_url(tmp_path: Path) -> None:
    path = copy(tmp_path).rename(tmp_path / "run?mode=rwc#1 50%.sqlite")
    assert len(read_nsys_ranges(path)) == 177


def test_a_run_without_a_gpu_holds_no_kernels(tmp_path: Path) -> None:
    line = refused(REAL / "tagged.sqlite")
    assert "holds no kernels: no use of CUDA was recorded" in line
    assert "cudaProfilerStart" in line


def test_calls_without_kernels(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        file.call(0, file.process + 1)
    assert "nothing that ran on a GPU was recorded → synchronize" in refused(file.path)


def test_graphs_recorded_whole_are_no_kernels(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        file.add("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=1, end=9)
    line = refused(file.path)
    assert "1 launches of CUDA graphs were recorded whole → profile again with --cuda-graph" in line


def test_a_text_that_is_not_utf_8_does_not_stop_it(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        file.sql("UPDATE StringIds SET value = CAST(x'ff41' AS TEXT) WHERE value = 'not ours'")
    assert len(read_nsys_ranges(file.path)) == 177
