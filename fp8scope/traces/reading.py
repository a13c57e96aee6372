"""Reads a profiler's report, whichever tool wrote it: the content decides, not the name alone."""

from __future__ import annotations

import csv
import math
import re
import shutil
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path

from fp8scope.errors import BadInput, Missing, one_line
from fp8scope.traces.nsys_export import export_nsys
from fp8scope.traces.trace import Trace

SQLITE, GZIP, NCU_REPORT = b"SQLite format 3\0", b"\x1f\x8b", b"NVR\0"
NSYS_REPORT, NSYS_STREAM = b"Profiler Report", b"Nsight Systems Stream"
"""In the first bytes of .nsys-rep and .qdstrm (seen in those of 2023.4)."""
NCU_PRINTED = re.compile(
    rb'^((\xef\xbb\xbf)?"ID","Process ID"|==(PROF|WARNING|ERROR)==)', re.MULTILINE
)
_TRIPPED = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, csv.Error)
HEAD_BYTES = 1 << 16
"""ncu prints lines of its own, and those of the program, before its CSV."""


def read_trace(path: Path) -> Trace:
    """A report of nsys (.sqlite, .nsys-rep), ncu (.csv, .ncu-rep) or torch.profiler (.json[.gz]).

    Raises BadInput where it is none of these or is damaged; Missing where the tool or the package
    that opens it is not on this machine.
    """
    try:
        trace = _read(path)
    except _TRIPPED as error:  # values of kinds that no tool writes
        raise _damaged(path, f"{type(error).__name__}: {one_line(error)}") from error
    for kernel in trace.kernels:
        if not all(map(_is_measured, (kernel.time_us, *kernel.counters.values()))):
            raise _damaged(path, f"a measurement of {kernel.name[:60]} is negative, or no number")
    return trace


def _is_measured(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _damaged(path: Path, why: str) -> BadInput:
    return BadInput(f"{path} is damaged ({why})", "export the report again, or record it anew")


def _read(path: Path) -> Trace:
    head = _head(path)
    if head.startswith(SQLITE) or path.suffix == ".sqlite":
        from fp8scope.traces.nsys import read_nsys

        return read_nsys(path)
    if NSYS_STREAM in head[:64] or path.suffix == ".qdstrm":
        raise BadInput(
            f"{path} is the raw stream of a run that nsys could not import",
            "make a report of it where all of Nsight Systems is installed: "
            f"`QdstrmImporter -i {path.name}`",
        )
    if NSYS_REPORT in head[:64] or path.suffix in {".nsys-rep", ".qdrep"}:
        return _exported(path)
    if head.startswith(NCU_REPORT) or path.suffix == ".ncu-rep":
        from fp8scope.traces.ncu import read_ncu_rep

        return read_ncu_rep(path)
    if NCU_PRINTED.search(head):
        from fp8scope.traces.ncu import read_ncu_csv

        return read_ncu_csv(path)
    if _unpacked(head).lstrip()[:1] in {b"{", b"["}:
        from fp8scope.traces.torch_trace import read_torch_trace

        return read_torch_trace(path)
    raise BadInput(
        f"{path} is no profiler's report",
        "give an nsys .sqlite or .nsys-rep, an ncu .csv (--csv --page raw) or .ncu-rep, or a "
        "torch.profiler trace .json",
    )


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"{path} cannot be read: {reason}", "check its path and rights") from error
    if not head:
        raise BadInput(f"{path} is empty", "profile again: the profiler wrote nothing")
    return head


def _unpacked(head: bytes) -> bytes:
    if not head.startswith(GZIP):
        return head
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(head, 1024)
    except zlib.error:
        return b""


def _exported(path: Path) -> Trace:
    from fp8scope.traces.nsys import read_nsys

    nsys = shutil.which("nsys")
    if nsys is None:
        raise Missing(
            f"{path} can only be opened by nsys, which is not on PATH",
            f"where nsys is, run `nsys export --type sqlite {path.name}`, and give the .sqlite",
        )
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "report.sqlite"
        export_nsys(Path(nsys), path, exported)
        try:
            return replace(read_nsys(exported), path=str(path))
        except BadInput as error:  # the file that the user knows is the report
            raise BadInput(error.what.replace(str(exported), str(path)), error.remedy) from error
