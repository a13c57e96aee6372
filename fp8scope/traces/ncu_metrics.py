"""Metrics of Nsight Compute: what to ask for on a chip, and which of our counters one is.

The names were read from NVIDIA's own lists: `ncu --query-metrics --chip …` of 2024.1 for Ampere,
Ada and Hopper, the NvPerf library of `ncu_report` 2025.3 for Blackwell. `sm__ops_path_tensor_src_X`
counts multiplies and adds of the Tensor Cores whose operands are X: on a B300 an FP8 GEMM of
4096³ gave exactly 2·M·N·K (github.com/NVIDIA/DCGM/issues/251).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fp8scope.traces.trace import Counter

DURATION = "gpu__time_duration.sum"
ACTIVE, ELAPSED = "sm__cycles_active.avg", "gpc__cycles_elapsed.max"
"""Of reports without the share of active cycles (`--set full`): both count the GPCs' clock."""
GIVEN: Mapping[Counter, tuple[str, ...]] = {
    "sm_active": ("sm__cycles_active.avg.pct_of_peak_sustained_elapsed",),
    "sm_throughput": ("sm__throughput.avg.pct_of_peak_sustained_elapsed",),
    "tensor_active": (
        "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
        # Blackwell counts tcgen05 in a pipe of its own; the busier of the two is meant
        "sm__pipe_tc_cycles_active.avg.pct_of_peak_sustained_active",
    ),
    "warps_active": ("sm__warps_active.avg.pct_of_peak_sustained_active",),
    "dram_throughput": (
        "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
        "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    ),
    "dram_read_bytes": ("dram__bytes_read.sum",),
    "dram_write_bytes": ("dram__bytes_write.sum",),
}
"""Rates and bytes: a counter is the largest of the metrics that a report has of it."""

_TF32_INT8: Mapping[str, Counter] = {
    "tf32_dst_fp32": "other_tensor_ops",
    "int8": "other_tensor_ops",
}
_FP16_APART: Mapping[str, Counter] = {"fp16_dst_fp16": "fp16_ops", "fp16_dst_fp32": "fp16_ops"}
_AMPERE: Mapping[str, Counter] = {"bf16_dst_fp32": "bf16_ops", **_FP16_APART, **_TF32_INT8}
_ADA: Mapping[str, Counter] = {"fp8": "fp8_ops", **_AMPERE}
_HOPPER: Mapping[str, Counter] = {
    "fp8": "fp8_ops", "bf16_dst_fp32": "bf16_ops", "fp16": "fp16_ops", **_TF32_INT8,
}  # fmt: skip
_GB100: Mapping[str, Counter] = {  # FP4 with scales of 32 counts with FP8: they share a path
    "fp4_fp6_fp8_dst_fp16": "fp8_ops", "fp4_fp6_fp8_dst_fp32": "fp8_ops",
    "fp4_dst_fp32": "other_tensor_ops", **_AMPERE,
}  # fmt: skip
_GB110: Mapping[str, Counter] = {
    "fp8_dst_fp16": "fp8_ops", "fp8_dst_fp32": "fp8_ops",
    "fp4_fp6_dst_fp16": "other_tensor_ops", "fp4_fp6_dst_fp32": "other_tensor_ops",
    "fp4_dst_fp32": "other_tensor_ops", **_AMPERE,
}  # fmt: skip


@dataclass(frozen=True)
class Chip:
    """A chip by NVIDIA's name; `sources`: operands that its Tensor Cores' counters tell apart."""

    name: str
    sources: Mapping[str, Counter]


CHIPS: Mapping[tuple[int, int], Chip] = {
    (8, 0): Chip("ga100", _AMPERE),
    (8, 6): Chip("ga102", _AMPERE),
    (8, 9): Chip("ad102", _ADA),
    (9, 0): Chip("gh100", _HOPPER),
    (10, 0): Chip("gb100", _GB100),
    (10, 3): Chip("gb110", _GB110),
    (11, 0): Chip("gb10b", _GB100),
    (12, 0): Chip("gb202", _GB110),
    (12, 1): Chip("gb20b", _GB110),
}
"""By compute capability."""
_SOURCES: Mapping[str, Counter] = {
    "int1": "other_tensor_ops", "int4": "other_tensor_ops", "fp64": "other_tensor_ops",
    **{source: counter for chip in CHIPS.values() for source, counter in chip.sources.items()},
}  # fmt: skip
_OPS = re.compile(r"sm__ops_path_tensor_(?P<op>op_[a-z]+_)?src_(?P<source>\w+)\.sum")


def metrics_for(compute_capability: tuple[int, int]) -> list[str]:
    """The metrics to ask ncu for, with suffixes; a chip that is not known is asked for all.

    A chip may lack some (GB10 counts no DRAM): what `available` leaves is what can be asked for.
    """
    chip = CHIPS.get(compute_capability)
    sources = list(
        chip.sources if chip else dict.fromkeys(s for c in CHIPS.values() for s in c.sources)
    )
    given = [name for names in GIVEN.values() for name in names]
    return [DURATION, *given, *(f"sm__ops_path_tensor_src_{source}.sum" for source in sources)]


def available(query_output: str, wished: Iterable[str]) -> list[str]:
    """Those of `wished` whose metric `ncu --query-metrics` lists, in their order."""
    listed = {line.split(maxsplit=1)[0] for line in query_output.splitlines() if line.strip()}
    return [name for name in wished if name.partition(".")[0] in listed]


def counters(values: Mapping[str, float]) -> dict[Counter, float]:
    """Our counters of one kernel from its metrics: rates as fractions, bytes, operations."""
    found: dict[Counter, float] = {}
    for counter, names in GIVEN.items():
        if given := [values[name] for name in names if name in values]:
            found[counter] = max(given)
    if "sm_active" not in found and values.get(ELAPSED) and ACTIVE in values:
        found["sm_active"] = min(values[ACTIVE] / values[ELAPSED], 1.0)
    return found | _operations(values)


def _operations(values: Mapping[str, float]) -> dict[Counter, float]:
    """Sums by the operands' format; counts per instruction only where a format has no other."""
    whole: dict[Counter, float] = {}
    parts: dict[Counter, float] = {}
    for name, value in values.items():
        match = _OPS.fullmatch(name)
        counter = _SOURCES.get(match["source"]) if match else None
        if match and counter:
            into = parts if match["op"] else whole
            into[counter] = into.get(counter, 0.0) + value
    return parts | whole
