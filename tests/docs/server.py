"""Reports of a server that ran the demo's checkpoint on a GPU: constructed, seen from none.

Files, tables and columns are those that nsys and ncu write (tests/traces says which of them are
real). Every row is invented: kernels of H200s, two of which should not be there, and their times.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fp8scope.artefacts.verdict import Speed
from fp8scope.traces.record import Device, Load, RunRecord
from fp8scope.traces.trace import DECODE, PREFILL
from tests.traces.ncu_file import BF16_GEMM, FP8_GEMM, Q_PROJ, QUANTIZE
from tests.traces.nsys_file import Filled

LAYERS, STEPS = 4, 4
LOAD = Load(batch=8, prompt_len=128, gen_len=64)
H200 = Device(
    kind="cuda",
    name="NVIDIA H200",
    compute_capability=(9, 0),
    memory_bytes=150_754_820_096,
    sms=132,
)
MARLIN = "void marlin::Marlin<__nv_bfloat16, 1125899906843648l, 256, 1, 16, 4, 4, false, true, -1>"
HIDDEN, KEYS, WIDE, VOCABULARY = 128, 64, 288, 1024
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, KEYS),
    "self_attn.v_proj": (HIDDEN, KEYS),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (HIDDEN, WIDE),
    "mlp.up_proj": (HIDDEN, WIDE),
    "mlp.down_proj": (WIDE, HIDDEN),
}
"""Of the demo's blocks: in, out."""
FELL_BACK = {
    "model.layers.2.mlp.down_proj": BF16_GEMM,
    "model.layers.3.self_attn.o_proj": MARLIN,
    "lm_head": BF16_GEMM,  # as planned
}
COUNTERS = Path(__file__).parents[1] / "traces" / "data" / "ncu" / "constructed.csv"
NS = 1000
"""In a µs."""


@dataclass(frozen=True)
class Linear:
    """A GEMM of a phase: `operations` of one run, `time_us` as invented."""

    name: str
    phase: str
    kernel: str
    operations: int
    time_us: float


def linears(phase: str) -> Iterator[Linear]:
    """Those of one pass, in order."""
    shapes = {
        f"model.layers.{layer}.{name}": shape
        for layer in range(LAYERS)
        for name, shape in SHAPES.items()
    }
    tokens = LOAD.batch * (LOAD.prompt_len if phase == PREFILL else 1)
    for name, (rows, columns) in shapes.items():
        kernel = FELL_BACK.get(name, FP8_GEMM)
        factor = 1.0 if kernel == FP8_GEMM else 1.9
        operations = 2 * tokens * rows * columns
        yield Linear(name, phase, kernel, operations, factor * (2.5 + operations / 1.2e9))
    head = 2 * LOAD.batch * HIDDEN * VOCABULARY
    yield Linear("lm_head", phase, FELL_BACK["lm_head"], head, 3.0)


def write_timeline(to: Path) -> None:
    """What nsys exports: kernels in ranges, the ranges as the native engine sets them."""
    with tempfile.TemporaryDirectory() as folder:
        with Filled(Path(folder)) as file:
            _fill(file)
        shutil.copyfile(file.path, to)


def _fill(file: Filled) -> None:
    """A prefill and some steps, in place of the ranges that are there; times in ns."""
    domains = "SELECT globalTid, domainId FROM NVTX_EVENTS WHERE eventType = 75"
    (thread, domain), *_ = file.sql(f"{domains} AND text = 'fp8scope'")
    file.sql("DELETE FROM NVTX_EVENTS WHERE eventType <> 75")
    file.gpu(0, H200.name)
    spans: list[tuple[str, int, int]] = []
    clock = NS
    for phase in (PREFILL, *[DECODE] * STEPS):
        began = clock
        for linear in linears(phase):
            start, clock = clock, _run(file, linear, clock + NS, thread)
            spans.append((linear.name, start, clock))
        spans.append((phase, began - NS // 2, clock))
        clock += NS
    for name, start, end in spans:
        where = {"globalTid": thread, "domainId": domain, "textId": file.string(name)}
        file.add("NVTX_EVENTS", start=start, end=end, eventType=59, **where)


def _run(file: Filled, linear: Linear, clock: int, thread: int) -> int:
    """Its kernels, one after the other; gives when the last has ended."""
    kernels = [(linear.kernel, linear.time_us)]
    if linear.kernel == FP8_GEMM:
        kernels.insert(0, (QUANTIZE, 1.4))
    for name, time_us in kernels:
        call = file.call(clock, thread)
        file.kernel(name, call, clock + NS, round(time_us * NS))
        clock += 2 * NS + round(time_us * NS)
    return clock


def write_counters(to: Path) -> None:
    """What ncu prints of the GEMMs of a prefill and a step."""
    with COUNTERS.open() as text:
        names, units, _, fp8, bf16 = csv.reader(text)
    stack = next(name for name in names if "Push/Pop" in name)
    rows = []
    for number, linear in enumerate([*linears(PREFILL), *linears(DECODE)]):
        row = dict(zip(names, fp8 if linear.kernel == FP8_GEMM else bf16, strict=True))
        ranges = fp8[names.index(stack)].replace(Q_PROJ, linear.name)
        row |= {
            "ID": str(number),
            "Kernel Name": linear.kernel,
            stack: ranges.replace(f":{PREFILL}:", f":{linear.phase}:"),
            "gpu__time_duration.sum": f"{linear.time_us / 1e3:.6f}",
        }
        for counted in (each for each in names if each.startswith("sm__ops_path_tensor_src_")):
            row[counted] = str(linear.operations) if float(row[counted]) else "0"
        rows.append(list(row.values()))
    with to.open("w", newline="") as text:
        csv.writer(text, quoting=csv.QUOTE_ALL).writerows([names, units, *rows])


def write_record(to: Path) -> None:
    """What `verify --engine command` leaves: the load, and no times of its own."""
    record = RunRecord(
        engine="command", engine_version="", checkpoint="demo-fp8", device=H200, load=LOAD,
        speed=Speed(),
    )  # fmt: skip
    to.write_text(record.model_dump_json())
