"""Reports of a server that ran the demo's checkpoint on a GPU: constructed, seen from none.

Files, tables and columns are those that nsys and ncu write (tests/traces says which of them are
real). Every row is invented: kernels of H200s, two of which should not be there, and their times.
"""

from __future__ import annotations

import csv
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
ATTENTION, KEYS, MLP, WIDE = 128, 64, 128, 288
SHAPES = {
    "self_attn.q_proj": (ATTENTION, ATTENTION),
    "self_attn.k_proj": (ATTENTION, KEYS),
    "self_attn.v_proj": (ATTENTION, KEYS),
    "self_attn.o_proj": (ATTENTION, ATTENTION),
    "mlp.gate_proj": (MLP, WIDE),
    "mlp.up_proj": (MLP, WIDE),
    "mlp.down_proj": (WIDE, MLP),
}
"""Of the demo's blocks: in, out."""
FELL_BACK = {
    "model.layers.2.mlp.down_proj": BF16_GEMM,
    "model.layers.3.self_attn.o_proj": MARLIN,
    "lm_head": BF16_GEMM,  # as planned
}
COUNTERS = Path(__file__).parents[1] / "traces" / "data" / "ncu" / "constructed.csv"
NS = 1000


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
    head = 2 * LOAD.batch * ATTENTION * 1024
    yield Linear("lm_head", phase, FELL_BACK["lm_head"], head, 3.0)


def write_timeline(to: Path) -> None:
    """What nsys exports: kernels in ranges, the ranges as the native engine sets them."""
    with tempfile.TemporaryDirectory() as folder, Filled(Path(folder)) as file:
        (thread, domain), *_ = file.sql(
            "SELECT globalTid, domainId FROM NVTX_EVENTS WHERE eventType = 75 AND text = 'fp8scope'"
        )
        file.sql("DELETE FROM NVTX_EVENTS WHERE eventType <> 75")
        file.gpu(0, H200.name)
        clock = 1_000_000

        def ranged(name: str, start: int, end: int) -> None:
            file.add(
                "NVTX_EVENTS", start=start, end=end, eventType=59, globalTid=thread,
                textId=file.string(name), domainId=domain,
            )  # fmt: skip

        for phase in (PREFILL, *[DECODE] * STEPS):
            began = clock
            for linear in linears(phase):
                start = clock + NS
                kernels = [(linear.kernel, linear.time_us)]
                if linear.kernel == FP8_GEMM:
                    kernels.insert(0, (QUANTIZE, 1.4))
                for name, time_us in kernels:
                    call = file.call(clock + 2 * NS, thread)
                    file.kernel(name, call, clock + 3 * NS, round(time_us * NS))
                    clock += round(time_us * NS) + 2 * NS
                clock += 2 * NS
                ranged(linear.name, start, clock)
            clock += NS
            ranged(phase, began, clock)
        file._database.commit()
        to.write_bytes(file.path.read_bytes())


def write_counters(to: Path) -> None:
    """What ncu prints of the GEMMs of a prefill and a step."""
    with COUNTERS.open() as text:
        names, units, _, fp8, bf16 = csv.reader(text)
    rows = []
    for number, linear in enumerate([*linears(PREFILL), *linears(DECODE)]):
        template = fp8 if linear.kernel == FP8_GEMM else bf16
        row = dict(zip(names, template, strict=True))
        stack = next(name for name in names if "Push/Pop" in name)
        row |= {
            "ID": str(number),
            "Kernel Name": linear.kernel,
            stack: dict(zip(names, fp8, strict=True))[stack]
            .replace(f":{PREFILL}:", f":{linear.phase}:")
            .replace(Q_PROJ, linear.name),
            "gpu__time_duration.sum": f"{linear.time_us / 1e3:.6f}",
        }
        for counted in (each for each in names if each.startswith("sm__ops_path_tensor_src_")):
            row[counted] = str(linear.operations) if float(row[counted]) else "0"
        rows.append([row[name] for name in names])
    with to.open("w", newline="") as text:
        csv.writer(text, quoting=csv.QUOTE_ALL).writerows([names, units, *rows])


def write_record(to: Path) -> None:
    """What `verify --engine command` leaves: the load, and no times of its own."""
    record = RunRecord(
        engine="command", engine_version="", checkpoint="demo-fp8", device=H200, load=LOAD,
        speed=Speed(),
    )  # fmt: skip
    to.write_text(record.model_dump_json())
