"""Exports of nsys with a GPU in them: constructed, never seen from a GPU.

The file and its ranges are real (`nsys/tagged.sqlite`), and so are the tables: nsys's own exporter
created them, empty. The rows of kernels, calls, GPUs and metrics are ours, to its schema 3.7.2;
TARGET_INFO_CUDA_DEVICE and CUPTI_ACTIVITY_KIND_GRAPH_TRACE are of newer schemas (2024 to 2025).
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

REAL = Path(__file__).parent / "nsys"
FP8, BF16, FUSED = "nvjet_qqtst_128x256_64x5_2x1_v_bz_TNN", "nvjet_tst_64x8_64x16_4x1", "fused"
NEWER = {
    "TARGET_INFO_CUDA_DEVICE": "gpuId INTEGER, cudaId INTEGER NOT NULL, pid INTEGER NOT NULL, "
    "uuid TEXT, numMultiprocessors INTEGER",
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": "start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId "
    "INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, graphId INTEGER",
}


class Filled:
    """A copy of a real export that rows are added to."""

    def __init__(self, folder: Path, scenario: str = "tagged") -> None:
        self.path = folder / f"{scenario}.sqlite"
        shutil.copyfile(REAL / f"{scenario}.sqlite", self.path)
        self._database = sqlite3.connect(self.path)
        self._launched = 0
        ((self.pid, self.process),) = self._database.execute("SELECT pid, globalPid FROM PROCESSES")

    def __enter__(self) -> Filled:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.commit()
        self._database.close()

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return self._database.execute(statement).fetchall()

    def add(self, table: str, **columns: Any) -> None:
        """A row; columns that may not be NULL and are not given are 0."""
        if table in NEWER:
            self.sql(f"CREATE TABLE IF NOT EXISTS {table} ({NEWER[table]})")
        told = self.sql(f"PRAGMA table_info({table})")
        row = {name: 0 for _, name, _, needed, *_ in told if needed} | columns
        marks = ", ".join("?" * len(row))
        self._database.execute(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})",  # noqa: S608
            list(row.values()),
        )

    def many(
        self, table: str, columns: str, rows: Iterable[tuple[Any, ...]], same: tuple[Any, ...] = ()
    ) -> None:
        """Rows of these columns, the last of them the same in all; what may not be NULL is 0."""
        told = self.sql(f"PRAGMA table_info({table})")
        given = columns.split(", ")
        rest = [name for _, name, _, needed, *_ in told if needed and name not in given]
        marks = ", ".join("?" * len(given) + "0" * len(rest))
        self._database.executemany(
            f"INSERT INTO {table} ({', '.join(given + rest)}) VALUES ({marks})",  # noqa: S608
            ((*row, *same) for row in rows),
        )

    def string(self, text: str) -> int:
        known: dict[str, int] = dict(self.sql("SELECT value, id FROM StringIds"))
        if text not in known:
            known[text] = max(known.values()) + 1
            self.add("StringIds", id=known[text], value=text)
        return known[text]

    def spans(self, name: str) -> list[tuple[int, int, int]]:
        """(start, end, thread) of each time through a range, in ns."""
        texts = "SELECT start, end, globalTid, text, textId FROM NVTX_EVENTS WHERE eventType = 59"
        names = dict(self.sql("SELECT id, value FROM StringIds"))
        found = [row[:3] for row in self.sql(texts) if (row[3] or names.get(row[4])) == name]
        return sorted((start, end, thread) for start, end, thread in found)

    def call(self, start: int, thread: int, end: int | None = None) -> int:
        """A call of CUDA's runtime of 10 ns; gives its correlation."""
        self._launched += 1
        self.add(
            "CUPTI_ACTIVITY_KIND_RUNTIME",
            start=start,
            end=start + 10 if end is None else end,
            globalTid=thread,
            correlationId=self._launched,
            nameId=self.string("cudaLaunchKernel_v7000"),
        )
        return self._launched

    def kernel(self, name: str, correlation: int, start: int, time: int, **columns: Any) -> None:
        self.add(
            "CUPTI_ACTIVITY_KIND_KERNEL",
            **{
                "start": start,
                "end": start + time,
                "correlationId": correlation,
                "globalPid": self.process,
                "demangledName": self.string(name),
                "gridX": 132,
                "gridY": 2,
                "gridZ": 1,
            }
            | columns,
        )

    def launch(self, name: str, inside: tuple[int, int, int], time: int, **columns: Any) -> None:
        """A kernel that runs 5 µs after it was launched in the middle of a range."""
        start, end, thread = inside
        middle = (start + end) // 2
        self.kernel(name, self.call(middle, thread), middle + 5000, time, **columns)

    def metric(self, name: str, values: list[tuple[int, int]], device: int = 0) -> None:
        """Samples (ns, %) of a GPU metric; nsys names the GPU in the lowest byte of a typeId."""
        type_id = 0x1_0000_0000_0000 | device
        metric_id = len(self.sql("SELECT 1 FROM TARGET_INFO_GPU_METRICS"))
        self.add(
            "TARGET_INFO_GPU_METRICS",
            typeId=type_id,
            typeName="GPU Metrics",
            metricId=metric_id,
            metricName=name,
        )
        for time, value in values:
            self.add("GPU_METRICS", timestamp=time, typeId=type_id, metricId=metric_id, value=value)

    def gpu(self, index: int, name: str, **columns: Any) -> None:
        usual = {"totalMemory": 150_754_820_096, "smCount": 132, "computeMajor": 9}
        self.add(
            "TARGET_INFO_GPU", **{"id": index, "name": name, **usual, "computeMinor": 0} | columns
        )
