"""Reports made to trip a reader: one line, whatever they hold. All of them are constructed."""

from __future__ import annotations

import gzip
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from fp8scope.errors import BadInput
from fp8scope.traces import torch_events
from fp8scope.traces.reading import read_trace
from tests.traces.nsys_file import FP8, Filled

KERNEL: dict[str, Any] = {
    "ph": "X", "cat": "kernel", "name": FP8, "ts": 1, "dur": 5, "pid": 1, "tid": 7,
    "args": {"correlation": 1, "device": 0},
}  # fmt: skip
CSV = (
    '"ID","Process ID","Kernel Name","Device","CC","gpu__time_duration.sum"\n'
    '"","","","","","us"\n"0","1","{name}","{device}","{cc}","{time}"\n'
)


def refused(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read_trace(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    return line


def torch_trace(folder: Path, *events: dict[str, Any], **head: object) -> Path:
    path = folder / "trace.json"
    path.write_text(json.dumps({"traceEvents": events, **head}))
    return path


@pytest.mark.parametrize(
    "args", [{"correlation": [1]}, {"correlation": {}}, {"correlation": 1, "External id": {}}]
)
def test_numbers_of_torch_that_are_none(tmp_path: Path, args: dict[str, object]) -> None:
    operator = {**KERNEL, "cat": "cpu_op", "args": {**args, "Input type": ["c10::BFloat16"]}}
    launch = {**KERNEL, "cat": "cuda_runtime", "args": args}
    path = torch_trace(tmp_path, operator, launch, {**KERNEL, "args": args})
    assert "is damaged (TypeError" in refused(path)


def test_properties_of_devices_that_are_none(tmp_path: Path) -> None:
    assert "is damaged" in refused(torch_trace(tmp_path, KERNEL, deviceProperties=5))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, "soon", None])
@pytest.mark.parametrize("field", ["ts", "dur"])
def test_an_event_of_torch_without_a_time_is_none(
    tmp_path: Path, field: str, value: object
) -> None:
    trace = read_trace(torch_trace(tmp_path, KERNEL, {**KERNEL, field: value}))
    assert [kernel.time_us for kernel in trace.kernels] == [5]


def test_an_event_of_torch_that_ended_before_it_began_took_no_time(tmp_path: Path) -> None:
    (kernel,) = read_trace(torch_trace(tmp_path, {**KERNEL, "dur": -3})).kernels
    assert kernel.time_us == 0


def test_a_trace_that_was_packed_to_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_events, "LARGEST", 1 << 20)
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(b"[" + b" " * (1 << 24), mtime=0))
    assert path.stat().st_size < 20_000
    assert "holds more than 1 MiB" in refused(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"time": "-5"}, "a measurement of k is negative"),
        ({"time": "1e999"}, "a measurement of k is negative, or no number"),
        ({"name": "k" * 200_000}, "field larger than"),
        ({"device": "9" * 5000}, "ValueError"),
    ],
)
def test_a_csv_of_ncu(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    path = tmp_path / "run.csv"
    path.write_text(CSV.format(**{"name": "k", "device": "0", "cc": "9.0", "time": "5"} | changes))
    assert said in refused(path)


def test_digits_of_other_scripts_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text(CSV.format(name="k", device="²", cc="²", time="5"), encoding="utf-8")
    (device,) = read_trace(path).devices
    assert (device.index, device.compute_capability) == (0, None)


def filled(folder: Path) -> Filled:
    file = Filled(folder)
    file.launch(FP8, file.spans("decode")[0], 10)
    file.gpu(0, "NVIDIA H200")
    return file


@pytest.mark.parametrize(
    ("column", "value"),
    [("totalMemory", "'x'"), ("computeMajor", "'x'"), ("computeMinor", "x'ff'"), ("uuid", "1")],
)
def test_columns_of_another_kind(tmp_path: Path, column: str, value: str) -> None:
    """SQLite keeps any value in any column."""
    with filled(tmp_path) as file:
        file.sql(f"UPDATE TARGET_INFO_GPU SET {column} = {value}")  # noqa: S608
    if column == "uuid":
        assert read_trace(file.path).devices[0].name == "NVIDIA H200"
    else:
        assert "is a damaged export of nsys" in refused(file.path)


def test_a_kernel_that_ended_before_it_began(tmp_path: Path) -> None:
    with filled(tmp_path) as file:
        file.sql("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET end = start - 1000")
    assert "is negative, or no number" in refused(file.path)


def test_a_table_whose_name_is_sql_is_just_another_table(tmp_path: Path) -> None:
    with filled(tmp_path) as file:
        file.sql('CREATE TABLE "x""); DROP TABLE StringIds; --" (id)')
        file.sql("CREATE TRIGGER t AFTER INSERT ON StringIds BEGIN DELETE FROM StringIds; END")
    assert [kernel.name for kernel in read_trace(file.path).kernels] == [FP8]


def test_a_column_that_a_file_computes_is_not_read(tmp_path: Path) -> None:
    """200 MB whenever it is read."""
    with filled(tmp_path) as file:
        file.sql("ALTER TABLE TARGET_INFO_GPU RENAME TO old")
        file.sql(
            "CREATE TABLE TARGET_INFO_GPU (id, name AS (hex(zeroblob(id))), totalMemory, "
            "smCount, computeMajor, computeMinor, uuid)"
        )
        file.sql("INSERT INTO TARGET_INFO_GPU (id) VALUES (100000000)")
    assert read_trace(file.path).devices[0].name == ""


def test_a_view_is_no_table(tmp_path: Path) -> None:
    """Which could join the kernels with themselves until the end of time."""
    with filled(tmp_path) as file:
        file.sql("DROP TABLE NVTX_EVENTS")
        file.sql("CREATE VIEW NVTX_EVENTS AS SELECT * FROM StringIds a, StringIds b, StringIds c")
    assert read_trace(file.path).ranges == ()


def test_nothing_is_written(tmp_path: Path) -> None:
    with filled(tmp_path) as file:
        pass
    before = file.path.read_bytes()
    read_trace(file.path)
    assert file.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file.path.name]
    assert sqlite3.connect(file.path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
