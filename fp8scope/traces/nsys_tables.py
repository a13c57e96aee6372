"""An export of nsys as it lies on disk: opening it, its tables, its devices and GPU metrics.

Tables are made lazily and columns come and go between versions (seen: schema 3.1 to 3.25), so
existence is asked for, never assumed. Times are ns in the file, µs here.
Schema: docs.nvidia.com/nsight-systems/UserGuide, "SQLite Schema Reference".
"""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fp8scope.errors import BadInput
from fp8scope.traces.trace import Counter, Sampled, SeenDevice

MAGIC = b"SQLite format 3\0"
NS_PER_US = 1000.0
THREAD_BITS = 24
"""A globalTid is VM and process in its high bits, the thread in the lowest 24."""
METRICS: tuple[tuple[re.Pattern[str], Counter], ...] = (
    (re.compile(r"SMs? Active \[Throughput %\]"), "sm_active"),
    (re.compile(r"Tensor Active( / FP16 Active)? \[Throughput %\]"), "tensor_active"),
    (re.compile(r"Compute Warps [Ii]n [Ff]light \[Throughput %\]"), "warps_active"),
    (re.compile(r"DRAM (Read |Write )?(Bandwidth|Throughput) \[Throughput %\]"), "dram_throughput"),
)
"""Names of GPU metrics, in percent. Reads and writes of DRAM are two, and add up."""


_COLUMNS = "SELECT name FROM pragma_table_info(?)"


class Export:
    """The tables of one export, read-only."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self.tables = {
            name: frozenset(column for (column,) in connection.execute(_COLUMNS, (name,)))
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }

    def rows(
        self, table: str, columns: Sequence[str], where: str = ""
    ) -> Iterator[tuple[Any, ...]]:
        """Rows of a table; no rows where it is absent, None for a column that this version lacks.

        `where` is ours, never foreign text.
        """
        if table not in self.tables:
            return
        known = self.tables[table]
        chosen = ", ".join(f'"{name}"' if name in known else "NULL" for name in columns)
        yield from self._connection.execute(f'SELECT {chosen} FROM "{table}" {where}')  # noqa: S608

    def require(self, table: str, columns: Sequence[str]) -> None:
        """Raises BadInput where a table is there, but not as any version known has it."""
        lacking = sorted(set(columns) - self.tables.get(table, frozenset(columns)))
        if lacking:
            raise BadInput(
                f"{self.path}: its table {table} has no column {', '.join(lacking)}",
                "this version of nsys is not known: export the report with one of 2023.4 to 2025",
            )

    def strings(self) -> dict[int, str]:
        """Texts by their id; names of kernels and of registered ranges are such ids."""
        return dict(self.rows("StringIds", ["id", "value"]))

    def version(self) -> str:
        """Of the tool; empty where the export does not say."""
        told = dict(self.rows("META_DATA_EXPORT", ["name", "value"]))
        return str(told.get("EXPORT_PRODUCT_VERSION") or "")


@contextmanager
def opened(path: Path) -> Iterator[Export]:
    """An export of nsys, opened so that nothing can be written, not even a journal.

    Raises BadInput where it cannot be read, is not SQLite, was cut off, is still being written,
    is damaged, or is no export of nsys.
    """
    _check(path)
    address = path.absolute().as_uri() + "?mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(address, uri=True)
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            export = Export(path, connection)
            if not {"NVTX_EVENTS", "META_DATA_EXPORT"} & set(export.tables) and not any(
                name.startswith("CUPTI_ACTIVITY_KIND") for name in export.tables
            ):
                raise BadInput(
                    f"{path} is an SQLite database, but no export of nsys",
                    "give what `nsys export --type sqlite REPORT.nsys-rep` wrote",
                )
            yield export
        finally:
            connection.close()
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise BadInput(
            f"{path} is a damaged export of nsys: {error}",
            "export the report again: `nsys export --type sqlite REPORT.nsys-rep`",
        ) from error


def _check(path: Path) -> None:
    """What SQLite itself would say late, or not at all."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
        size = path.stat().st_size
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"{path} cannot be read: {reason}", "check its path and rights") from error
    if header[:16] != MAGIC:
        raise BadInput(
            f"{path} is not an SQLite database",
            "give what `nsys export --type sqlite REPORT.nsys-rep` wrote",
        )
    page = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    # SQLite's file format: a page size of 1 means 65536; the count holds if both stamps agree.
    whole = (65536 if page == 1 else page) * (pages if header[24:28] == header[92:96] else 0)
    if len(header) < 100 or size < whole:
        raise BadInput(
            f"{path} was cut off: {size} of {whole} bytes",
            "copy it again, or export the report again",
        )
    for kind in ("-wal", "-journal"):
        beside = path.with_name(path.name + kind)
        if beside.exists() and beside.stat().st_size:
            raise BadInput(
                f"{path} is still being written: {beside.name} lies beside it",
                "wait until nsys has exported it, or export it again",
            )


def devices(export: Export) -> tuple[SeenDevice, ...]:
    """The GPUs of the machine by nsys's own number, and whether a process ran on a slice of one."""
    slices = {
        gpu: (str(uuid or ""), sms)
        for gpu, uuid, sms in export.rows(
            "TARGET_INFO_CUDA_DEVICE", ["gpuId", "uuid", "numMultiprocessors"]
        )
    }
    told = ["id", "name", "totalMemory", "smCount", "computeMajor", "computeMinor", "uuid"]
    found = []
    for index, name, memory, sms, major, minor, uuid in export.rows("TARGET_INFO_GPU", told):
        used, used_sms = slices.get(index, ("", None))
        part = bool(used_sms and sms and used_sms < sms)
        found.append(
            SeenDevice(
                index=index,
                name=str(name or ""),
                compute_capability=None if major is None else (int(major), int(minor or 0)),
                sms=used_sms if part else sms or None,
                memory_bytes=int(memory) if memory else None,
                mig=part
                or " MIG " in f" {name} "
                or used.startswith("MIG-")
                or str(uuid or "").startswith("MIG-"),
            )
        )
    return tuple(sorted(found, key=lambda device: device.index))


def device_numbers(export: Export) -> dict[tuple[int, int], int]:
    """(process, CUDA's ordinal in it) → nsys's number of the GPU.

    CUDA_VISIBLE_DEVICES renumbers, each process for itself.
    """
    return {
        (pid, cuda): gpu
        for pid, cuda, gpu in export.rows("TARGET_INFO_CUDA_DEVICE", ["pid", "cudaId", "gpuId"])
        if gpu is not None
    }


def samples(export: Export) -> tuple[Sampled, ...]:
    """GPU metrics that are counters of ours, by device; the lowest byte of a typeId is its GPU."""
    counters: dict[tuple[int, int], Counter] = {}
    for type_id, metric_id, name in export.rows(
        "TARGET_INFO_GPU_METRICS", ["typeId", "metricId", "metricName"]
    ):
        for pattern, counter in METRICS:
            if pattern.fullmatch(name or ""):
                counters[type_id, metric_id] = counter
    sums: dict[tuple[int, Counter], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for type_id, metric_id, time, value in export.rows(
        "GPU_METRICS", ["typeId", "metricId", "timestamp", "value"]
    ):
        counter_of = counters.get((type_id, metric_id))
        if counter_of and time is not None and value >= 0:  # a sample that failed is negative
            sums[type_id & 0xFF, counter_of][time] += value / 100
    found = []
    for (device, counter), by_time in sorted(sums.items()):
        times = sorted(by_time)
        found.append(
            Sampled(
                counter=counter,
                device=device,
                times_us=tuple(time / NS_PER_US for time in times),
                values=tuple(min(by_time[time], 1.0) for time in times),
            )
        )
    return tuple(found)
