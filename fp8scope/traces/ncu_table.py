"""The CSV that ncu prints, as rows: one of each kernel.

Lines of the program and of ncu itself (`==PROF==`) may stand around and within the table. The raw
page has a column per metric and a line of units under the header, the details page a line per
metric. Numbers are printed in the locale of whoever printed them, with or without separators.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fp8scope.errors import BadInput, Missing

PRINT_AGAIN = "print it again: ncu -i REPORT.ncu-rep --csv --page raw > FILE.csv"
LABELS: Mapping[str, str] = {
    "Duration": "gpu__time_duration.sum",
    "SM Active Cycles": "sm__cycles_active.avg",
    "Elapsed Cycles": "gpc__cycles_elapsed.max",
    "Compute (SM) Throughput": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "DRAM Throughput": "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    "Achieved Occupancy": "sm__warps_active.avg.pct_of_peak_sustained_active",
}
"""Metrics that the details page calls otherwise."""
_METRIC, _UNIT, _VALUE = "Metric Name", "Metric Unit", "Metric Value"
_PREFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9,
             "T": 1e12, "P": 1e15}  # fmt: skip
_SCALED = re.compile(r"([numKkMGTP]?)(second|s|byte|B|cycle|inst|op|)(/.*)?")
_RANGE = re.compile(
    r"(?P<domain>[^:]*):(?P<name>.*):[^:]*:[^:]*:(?:none:none|RGB:0x[0-9a-fA-F]+)"
    r":[^:]*:(?:(?P=name)|[^:]*)"
)
"""Domain, name, payload's type and value, colour's, message's; a name may have colons itself."""


@dataclass(frozen=True)
class Row:
    """A kernel: `texts` by column, `values` in base units (s, byte, fraction) by metric, `stack`
    (domain, name) of the ranges around its launch.
    """

    texts: Mapping[str, str]
    values: dict[str, float]
    stack: tuple[tuple[str, str], ...] = ()


def in_base_units(value: float, unit: str) -> float:
    """Seconds, bytes or counts; percent become a fraction. A unit that is not known is kept."""
    if unit == "%":
        return value / 100
    match = _SCALED.fullmatch(unit)
    return value * _PREFIXES[match[1]] if match and match[2] else value


def number(text: str) -> float | None:
    """`1,234.5`, `1.234,5`, `1234`, or with a kernel's instances behind it; None of no number."""
    text = text.split("(", 1)[0].strip().replace("\u00a0", "").replace(" ", "")
    point = max(text.rfind("."), text.rfind(","))
    mark = text[point] if point >= 0 else ""
    groups = text.split(mark) if mark else []
    other = "," if mark == "." else "."
    grouped = len(groups) > 2 or (mark == "," and len(groups) == 2 and len(groups[1]) == 3)
    if mark and grouped and other not in text:
        text = text.replace(mark, "")
    elif mark:
        text = text.replace(other, "").replace(mark, ".")
    return float(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", text) else None


def ranges_of(text: str) -> tuple[tuple[str, str], ...]:
    """(domain, name) of `1  "fp8scope:prefill:none:…"  "fp8scope:model.layers.0…:none:…"`.

    Start/end ranges have their number before the domain.
    """
    found = []
    for quoted in re.findall(r'"([^"]*)"', text):
        match = _RANGE.fullmatch(re.sub(r"^\d+:(?=[^:]*:)", "", quoted))
        if match:
            found.append((match["domain"], match["name"]))
    return tuple(found)


def rows_of(text: str, path: Path) -> list[Row]:
    """Every kernel of the table. Raises BadInput where there is none, or where it is cut off."""
    header: list[str] = []
    units: list[str] = []
    kernels: dict[tuple[int, str], Row] = {}
    tables = 0
    for cells in _lines(text):
        if cells[0] == "ID" and "Kernel Name" in cells:
            header, units, tables = cells, [], tables + 1
        elif header and not cells[0] and len(cells) == len(header):
            units = cells
        elif header and cells[0].isdecimal():
            # the details page leaves out the last cells of a line, the raw page never does
            if len(cells) < (header.index(_VALUE) + 1 if _VALUE in header else len(header)):
                raise BadInput(f"{path} is cut off, or not as ncu printed it", PRINT_AGAIN)
            texts = dict(zip(header, cells, strict=False))
            row = kernels.setdefault((tables, cells[0]), Row(texts, {}, _stack(texts)))
            row.values.update(_measured(texts, dict(zip(header, units, strict=False))))
    if not kernels:
        raise _no_table(text, path, found=bool(header))
    return list(kernels.values())


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith('"'):
            yield next(csv.reader([line]))


def _stack(texts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Start/end ranges, which are the process's, stand around the thread's push/pop ranges."""
    started = [text for name, text in texts.items() if "Start/Stop_Range:" in name]
    pushed = [text for name, text in texts.items() if "Push/Pop_Range:" in name]
    return tuple(pair for text in (*started, *pushed) for pair in ranges_of(text))


def _measured(texts: Mapping[str, str], units: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """The metrics of a line, in base units: one on the details page, else all."""
    if _METRIC in texts:
        units, texts = {texts[_METRIC]: texts[_UNIT]}, {texts[_METRIC]: texts[_VALUE]}
    for name, text in texts.items():
        value = number(text) if "__" in name or name in LABELS else None
        if value is not None:
            yield LABELS.get(name, name), in_base_units(value, units.get(name, ""))


def _no_table(text: str, path: Path, *, found: bool) -> BadInput | Missing:
    if "ERR_NVGPUCTRPERM" in text:
        return Missing(
            f"{path}: ncu was not allowed to read the GPU's counters (ERR_NVGPUCTRPERM)",
            "run it as root, or set the driver's NVreg_RestrictProfilingToAdminUsers=0",
        )
    if found or "No kernels were profiled" in text:
        return BadInput(
            f"{path}: ncu profiled no kernels",
            "check --nvtx-include, -k and -s: they may leave out all that ran",
        )
    return BadInput(f"{path} is no CSV of ncu", PRINT_AGAIN)
