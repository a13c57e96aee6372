"""Which reader opens a report: what is in it decides."""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fp8scope.errors import BadInput, Missing
from fp8scope.traces.reading import read_trace
from fp8scope.traces.trace import Trace
from tests.traces.nsys_file import FP8, REAL, Filled

NSYS_REPORT = b"NVIDIA Tegra Profiler Report 2023@4@4@54-234433681190v0.\n"
NCU_CSV = b'==PROF== Connected to process 7\nhello\n"ID","Process ID","Process Name"\n"0","7","x"\n'


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The readers of the other tools, reduced to their names."""

    def named(name: str) -> object:
        return lambda path: Trace(tool="ncu", path=f"{name} {path.name}", kernels=())

    ncu = SimpleNamespace(read_ncu_csv=named("csv"), read_ncu_rep=named("rep"))
    monkeypatch.setitem(sys.modules, "fp8scope.traces.ncu", ncu)
    torch_trace = SimpleNamespace(read_torch_trace=named("torch"))
    monkeypatch.setitem(sys.modules, "fp8scope.traces.torch_trace", torch_trace)


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("name", "content", "reader"),
    [
        ("run.csv", NCU_CSV, "csv"),
        ("run.txt", NCU_CSV.replace(b"\n", b"\r\n"), "csv"),
        ("run.csv", b"\xef\xbb\xbf" + NCU_CSV.partition(b"hello\n")[2], "csv"),
        ("run.ncu-rep", b"NVR\0...", "rep"),
        ("report", b"NVR\0...", "rep"),
        ("trace.json", b'\n {"traceEvents": []}', "torch"),
        ("trace", b"[]", "torch"),
        ("trace.json.gz", gzip.compress(b'{"traceEvents": []}', mtime=0), "torch"),
    ],
)
def test_the_content_decides(tmp_path: Path, name: str, content: bytes, reader: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert read_trace(path).path == f"{reader} {name}"


def test_an_export_of_nsys_under_any_name(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        file.launch(FP8, file.spans("decode")[0], 10)
    trace = read_trace(file.path.rename(tmp_path / "report.db"))
    assert (trace.tool, len(trace.kernels)) == ("nsys", 1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.csv", b"a,b\n1,2\n", "is no profiler's report → give an nsys .sqlite"),
        ("run.gz", gzip.compress(b"hello", mtime=0), "is no profiler's report"),
        ("run.gz", b"\x1f\x8bnot gzip", "is no profiler's report"),
        ("run.csv", b"", "is empty"),
        ("run.sqlite", b"hello", "is not an SQLite database"),
        ("run.qdstrm", b"U3w[END]NVIDIA Nsight Systems Stream 2023.4", "QdstrmImporter -i run"),
    ],
)
def test_what_is_no_report(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_trace(path)
    assert said in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read: no such file"):
        read_trace(tmp_path / "run.sqlite")


@pytest.mark.parametrize("name", ["run.nsys-rep", "run"])
def test_a_report_of_nsys_without_nsys_says_how_to_export_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / name
    path.write_bytes(NSYS_REPORT)
    with pytest.raises(Missing) as caught:
        read_trace(path)
    assert caught.value.exit_code == 3
    assert f"run `nsys export --type sqlite {name}`" in str(caught.value)


def stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A report of nsys, and a program called nsys that does what the script says."""
    program = folder / "nsys"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    report = folder / "run of today.nsys-rep"
    report.write_bytes(NSYS_REPORT)
    return report


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for nsys")
def test_a_report_of_nsys_is_exported_by_nsys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Filled(tmp_path) as file:
        file.launch(FP8, file.spans("decode")[0], 10)
    # export --type=sqlite --force-overwrite=true --output=FILE REPORT
    script = f'[ "$1 $2" = "export --type=sqlite" ] && test -f "$5" && cp {file.path} "${{4#*=}}"'
    report = stand_in(tmp_path, script, monkeypatch)
    trace = read_trace(report)
    assert (trace.path, len(trace.kernels)) == (str(report), 1)
    assert not any(child.name == "report.sqlite" for child in tmp_path.iterdir())


def test_a_report_of_nsys_without_kernels_is_named_as_the_user_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = stand_in(tmp_path, f'cp {REAL / "tagged.sqlite"} "${{4#*=}}"', monkeypatch)
    with pytest.raises(BadInput) as caught:
        read_trace(report)
    assert str(caught.value).startswith(f"{report} holds no kernels")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo; echo Cannot open a newer report >&2; exit 1", "Cannot open a newer report"),
        ("echo opening; echo Error: short; exit 1", "Error: short"),
        ("exit 0", "it said nothing"),
    ],
)
def test_a_report_that_nsys_cannot_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    report = stand_in(tmp_path, script, monkeypatch)
    with pytest.raises(BadInput) as caught:
        read_trace(report)
    assert f"nsys cannot export {report} ({said})" in str(caught.value)


@pytest.mark.skipif(shutil.which("nsys") is None, reason="nsys is not on PATH")
def test_nsys_itself_refuses_what_is_no_report(tmp_path: Path) -> None:
    path = tmp_path / "run.nsys-rep"
    path.write_bytes(NSYS_REPORT + REAL.name.encode())
    with pytest.raises(BadInput, match="nsys cannot export"):
        read_trace(path)
