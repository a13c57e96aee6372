"""A report of ncu, made without a GPU: the layout is that of the `.proto` files that Nsight
Compute 2024.1 installs in `extras/FileFormat`; what stands in it is invented.

`ncu` itself and the package `ncu_report` read such a file, so that what they print of it has
their real form. `python -m tests.traces.ncu_file OUT.ncu-rep` writes the one of the fixtures.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Value = float | int | str
DEVICE: Mapping[str, Value] = {
    "display_name": "NVIDIA H200",
    "compute_capability_major": 9,
    "compute_capability_minor": 0,
    "multiprocessor_count": 132,
    "device_index": 0,
    "chip": 0x180,
    "architecture": 0x180,
    "implementation": 0x180,
}
PROCESS = 4711


@dataclass(frozen=True)
class Launch:
    """A kernel that was profiled: `stacks` of push/pop ranges by domain, outermost first."""

    name: str
    metrics: Mapping[str, Value]
    stacks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    started: Mapping[str, Sequence[str]] = field(default_factory=dict)
    grid: tuple[int, int, int] = (132, 1, 1)


def _varint(value: int) -> bytes:
    low = value & 0x7F
    return bytes([low]) if value < 0x80 else bytes([low | 0x80]) + _varint(value >> 7)


def _message(*fields: tuple[int, int | float | str | bytes]) -> bytes:
    """Protocol buffers' wire format: int as a varint, float as a double, the rest by length."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        elif isinstance(value, float):
            out += _varint(number << 3 | 1) + struct.pack("<d", value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def _sized(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _metric_value(value: Value) -> bytes:
    return _message(({str: 1, float: 3, int: 5}[type(value)], value))


def _range(name: str) -> bytes:
    """As the package `nvtx` of PyPI sets it: a colour, and the name as a registered message."""
    colour, payload = _message((1, 1), (2, 0xFF76B900)), _message((1, 0))
    message = _message((1, 3), (2, name), (3, 1))
    return _message(
        (1, name), (2, _message((1, 3), (2, 0), (3, colour), (4, payload), (5, message)))
    )


def _nvtx(launch: Launch) -> bytes:
    domains = {name: number for number, name in enumerate({**launch.stacks, **launch.started})}
    pushed = [
        (2, _message((1, domains[domain]), *((3, _range(name)) for name in stack)))
        for domain, stack in launch.stacks.items()
    ]
    started = [
        (3, _message(
            (1, domains[domain]), *((3, _message((1, 1), (2, name), (5, 1))) for name in names)
        ))
        for domain, names in launch.started.items()
    ]  # fmt: skip
    return _message(
        *((1, _message((1, number), (2, name))) for name, number in domains.items()),
        (2, _message((1, 1), *pushed)),
        *started,
    )


def _result(launch: Launch, number: int, strings: list[str]) -> bytes:
    x, y, z = launch.grid
    strings += [name for name in launch.metrics if name not in strings]
    metrics = [
        (13, _message((1, strings.index(name)), (2, _metric_value(value))))
        for name, value in launch.metrics.items()
    ]
    return _message(
        (1, 1), (2, number + 1), (3, 1), (4, number), (5, launch.name), (6, launch.name),
        (7, launch.name), (8, 3), (9, _message((1, 0), (2, 0), (3, 0))),
        (10, _message((1, x), (2, y), (3, z))), (11, _message((1, 384), (2, 1), (3, 1))),
        *metrics, (15, _message((1, 1))), (16, 0), (21, _nvtx(launch)), (22, 1), (23, 7),
    )  # fmt: skip


def _session(device: Mapping[str, Value]) -> bytes:
    attributes = [
        (3, _message((1, f"device__attribute_{name}"), (2, _metric_value(value))))
        for name, value in device.items()
    ]
    shown = str(device["display_name"])
    return _message(
        (1, PROCESS), (2, 1_790_000_000), (6, _message((1, 0), (2, shown), *attributes))
    )


def _block(payload: bytes, *header: tuple[int, int | bytes]) -> bytes:
    process = _message((1, PROCESS), (2, "python"))
    return _sized(_message(*header, (5, len(payload)), (6, process))) + payload


def write_report(
    path: Path, launches: Sequence[Launch], device: Mapping[str, Value] = DEVICE
) -> None:
    """A `.ncu-rep` of these launches on one device."""
    strings: list[str] = []
    results = b"".join(
        _sized(_result(launch, number, strings)) for number, launch in enumerate(launches)
    )
    table = _message(*((1, text) for text in strings))
    source = _sized(_message((1, 1), (5, 0)))
    path.write_bytes(
        b"NVR\0"
        + _sized(_message((1, 7)))
        + _block(b"", (1, 0), (2, 0), (3, _session(device)))
        + _block(source, (1, 1), (2, 0))
        + _block(results, (1, 0), (2, len(launches)), (4, table))
    )


FP8_GEMM = "nvjet_sm90_qqtst_128x128_128x6_1x2_h_bz_ovscale_TNT"
BF16_GEMM = "nvjet_sm90_tst_192x192_64x4_2x1_v_bz_coopB_TNN"
QUANTIZE = (
    "void vllm::scaled_fp8_quant_kernel<c10::BFloat16>(c10::Float8_e4m3fn *, "
    "const c10::BFloat16 *, const float *, long)"
)
Q_PROJ, GATE = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.gate_up_proj"


def _metrics(fp8: int, bf16: int, time_ns: int, read: int, tensor: float) -> dict[str, Value]:
    return {
        "gpu__time_duration.sum": time_ns,
        "sm__cycles_active.avg.pct_of_peak_sustained_elapsed": 91.25,
        "sm__throughput.avg.pct_of_peak_sustained_elapsed": 80.5,
        "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active": tensor,
        "sm__warps_active.avg.pct_of_peak_sustained_active": 18.75,
        "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": 23.5,
        "dram__bytes_read.sum": read,
        "dram__bytes_write.sum": 33_554_432,
        "sm__ops_path_tensor_src_fp8.sum": fp8,
        "sm__ops_path_tensor_src_bf16_dst_fp32.sum": bf16,
        "sm__ops_path_tensor_src_fp16.sum": 0,
        "sm__ops_path_tensor_src_tf32_dst_fp32.sum": 0,
        "sm__ops_path_tensor_src_int8.sum": 0,
        **{f"device__attribute_{name}": value for name, value in DEVICE.items()},
    }


def launches() -> list[Launch]:
    """One quantized layer, one that fell back, in prefill; both for real shapes of an 8B model."""
    gemm = 2 * 16384 * 4096
    other = {"<default domain>": ["step, 3"]}
    return [
        Launch(QUANTIZE, _metrics(0, 0, 31_200, 134_217_728, 0.0),
               {"fp8scope": ["prefill", Q_PROJ], **other}, grid=(16384, 1, 1)),
        Launch(FP8_GEMM, _metrics(gemm * 4096, 0, 392_416, 50_331_648, 78.5),
               {"fp8scope": ["prefill", Q_PROJ], **other}),
        Launch(BF16_GEMM, _metrics(0, gemm * 28672, 5_012_480, 369_098_752, 88.0),
               {"fp8scope": ["prefill", GATE]}, {"fp8scope": ["request 1"]}),
    ]  # fmt: skip


if __name__ == "__main__":
    write_report(Path(sys.argv[1]), launches())
