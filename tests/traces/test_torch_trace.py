"""Traces of torch.profiler. `data/torch/cpu.json.gz` was recorded by `record_torch.py`, with torch
2.13 on a CPU. Those of GPUs are constructed: events as published traces have them (the arguments of
a kernel are those that kineto writes), times and names invented. None was recorded by us.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8scope.errors import BadInput
from fp8scope.traces.precision import precision_of
from fp8scope.traces.torch_events import Event, open_at
from fp8scope.traces.torch_trace import read_torch_trace
from fp8scope.traces.trace import Trace

RECORDED = Path(__file__).parent / "data" / "torch" / "cpu.json.gz"
Q_PROJ, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"
H200 = {"id": 0, "name": "NVIDIA H200", "totalGlobalMem": 150_110_011_392, "computeMajor": 9,
        "computeMinor": 0, "numSms": 132}  # fmt: skip


def test_a_recorded_trace_of_a_cpu() -> None:
    trace = read_torch_trace(RECORDED)
    assert not trace.on_gpu
    assert trace.devices == ()
    found = [(k.name, *k.ranges) for k in trace.kernels]
    step = [
        ("aten::addmm", "model.layers.0.self_attn", Q_PROJ),
        ("aten::scaled_dot_product_attention", "model.layers.0.self_attn"),
        ("aten::_scaled_mm", DOWN),
    ]
    prefill = [(name, "prefill", *ranges) for name, *ranges in step]
    decode = [(name, "decode", *ranges) for name, *ranges in step]
    assert found == prefill + 2 * decode
    assert all(kernel.time_us > 0 for kernel in trace.kernels)


def test_a_cpus_operands_tell_what_was_asked_and_a_note_what_was_done() -> None:
    trace = read_torch_trace(RECORDED)
    linear, _, scaled = trace.kernels[:3]
    assert scaled.operands == ("float8_e4m3fn", "float8_e4m3fn", "float32", "float32")
    assert precision_of(scaled)[0] == "fp8"
    assert precision_of(linear)[0] == "bf16"
    assert any("the CPU multiplied FP8 operands as FP32" in note for note in trace.notes)


def test_ranges_of_a_recorded_trace_nest() -> None:
    ranges = read_torch_trace(RECORDED).ranges
    assert [r.name for r in ranges if not r.parents] == ["prefill", "decode", "decode"]
    q_proj = next(r for r in ranges if r.name == Q_PROJ)
    assert q_proj.parents == ("prefill", "model.layers.0.self_attn")
    outer = next(r for r in ranges if r.name == "prefill")
    assert outer.start_us <= q_proj.start_us < q_proj.end_us <= outer.end_us


class Recorder:
    """Events of a trace in which one thread launches kernels."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = [{"ph": "M", "name": "process_name", "pid": 1}]

    def add(self, category: str, name: str, start: float, time: float, **more: Any) -> None:
        event = {"ph": "X", "cat": category, "name": name, "ts": start, "dur": time}
        self.events.append(event | {"pid": more.pop("pid", 1), "tid": more.pop("tid", 1)} | more)

    def launch(self, number: int, start: float, name: str, time: float = 10.0, **more: Any) -> None:
        """A launch at `start`, its kernel 100 µs later."""
        args = {"External id": number, "correlation": number}
        call = {"cbid": 211, **args}
        self.add("cuda_runtime", "cudaLaunchKernel", start, 2, args=call, tid=more.get("tid", 1))
        device = more.get("device", 0)
        grid = {"grid": more.get("grid", [132, 1, 1]), "block": [384, 1, 1]}
        made = {"device": device, "stream": 7, "est. achieved occupancy %": 18, **grid, **args}
        self.add("kernel", name, start + 100, time, pid=device, tid=7, args=made)

    def operator(self, number: int, name: str, start: float, time: float, *types: str) -> None:
        args = {"External id": number, "Input type": [*types, "Scalar", ""]}
        self.add("cpu_op", name, start, time, args=args)

    def read(self, folder: Path, *devices: dict[str, Any]) -> Trace:
        path = folder / "trace.json"
        head = {"schemaVersion": 1, "deviceProperties": list(devices)}
        path.write_text(json.dumps(head | {"traceEvents": self.events}))
        return read_torch_trace(path)


def annotated() -> Recorder:
    """A prefill: q_proj in FP8 with its quantization, then down_proj."""
    made = Recorder()
    made.add("user_annotation", "ProfilerStep#3", 0, 1000)
    made.add("user_annotation", "fp8scope:prefill", 10, 500)
    made.add("user_annotation", f"fp8scope:{Q_PROJ}", 20, 100)
    made.operator(1, "vllm::quantize", 22, 8, "c10::BFloat16")
    made.launch(1, 25, "void vllm::scaled_fp8_quant_kernel<c10::BFloat16>", grid=[66, 1, 1])
    made.operator(
        2, "aten::_scaled_mm", 40, 60, "c10::Float8_e4m3fn", "c10::Float8_e4m3fn", "float"
    )
    made.launch(2, 50, "triton_tem_fused_mm_3", time=30.0, grid=[11, 12, 2])
    made.add("user_annotation", f"fp8scope:{DOWN}", 130, 100)
    made.operator(3, "aten::mm", 140, 40, "c10::BFloat16", "c10::BFloat16")
    made.launch(3, 150, "nvjet_sm90_tst_192x192_64x4_2x1_v_bz_TNN")
    return made


def test_a_kernel_lies_in_the_ranges_of_its_launch(tmp_path: Path) -> None:
    # q_proj's kernels run when its range is over, at 125 and 150 µs
    trace = annotated().read(tmp_path, H200)
    assert trace.on_gpu
    assert [kernel.ranges for kernel in trace.kernels] == [
        ("prefill", Q_PROJ), ("prefill", Q_PROJ), ("prefill", DOWN)
    ]  # fmt: skip
    assert [range_.name for range_ in trace.ranges] == ["prefill", Q_PROJ, DOWN]
    gemm = trace.kernels[1]
    assert (gemm.start_us, gemm.time_us, gemm.blocks) == (150, 30, 264)
    assert gemm.operands == ("float8_e4m3fn", "float8_e4m3fn", "float32")
    assert precision_of(gemm)[0] == "fp8"
    assert precision_of(trace.kernels[2]) == ("bf16", "name")


def test_the_device_and_the_bound_of_the_grids(tmp_path: Path) -> None:
    trace = annotated().read(tmp_path, H200, H200 | {"id": 1})
    (device,) = trace.devices  # the second is there, and idle
    assert (device.name, device.compute_capability, device.sms) == ("NVIDIA H200", (9, 0), 132)
    assert device.memory_bytes == 150_110_011_392
    # (0.5·10 + 1·30 + 1·10) of 50 µs
    assert any("at most 90% of the SMs" in note for note in trace.notes)
    assert not any("sm_active" in kernel.counters for kernel in trace.kernels)


def test_several_gpus(tmp_path: Path) -> None:
    made = annotated()
    made.launch(4, 160, "nvjet_sm90_tst_192x192_64x4_2x1_v_bz_TNN", device=1)
    trace = made.read(tmp_path, H200, H200 | {"id": 1, "name": "NVIDIA H200 MIG 1g.18gb"})
    assert [(device.index, device.mig) for device in trace.devices] == [(0, False), (1, True)]
    assert trace.kernels[-1].device == 1


def test_a_launch_on_another_thread_is_in_none_of_this_ones_ranges(tmp_path: Path) -> None:
    made = annotated()
    made.launch(4, 60, "void at::native::reduce_kernel<512>", tid=2)
    trace = made.read(tmp_path, H200)
    (lost,) = (kernel for kernel in trace.kernels if not kernel.ranges)
    assert lost.name.endswith("reduce_kernel<512>")
    assert any("1 of 4 kernels were launched outside of every range" in n for n in trace.notes)


def test_ranges_that_overlap_without_nesting(tmp_path: Path) -> None:
    made = Recorder()
    made.add("user_annotation", "fp8scope:prefill", 0, 100)
    made.add("user_annotation", "fp8scope:decode", 50, 200)  # begins before prefill ends
    made.launch(1, 60, "a_kernel")
    made.launch(2, 120, "a_kernel")
    trace = made.read(tmp_path)
    assert [kernel.ranges for kernel in trace.kernels] == [("prefill", "decode"), ("decode",)]


def test_without_the_launch_torchs_own_projection_tells(tmp_path: Path) -> None:
    made = annotated()
    made.events = [event for event in made.events if event.get("cat") != "cuda_runtime"]
    made.add("gpu_user_annotation", f"fp8scope:{Q_PROJ}", 120, 70, pid=0, tid=7)
    trace = made.read(tmp_path, H200)
    assert [kernel.ranges for kernel in trace.kernels] == [(Q_PROJ,), (Q_PROJ,), ()]


def test_modules_that_another_engine_tagged(tmp_path: Path) -> None:
    made = Recorder()
    made.add("user_annotation", "execute_model", 0, 100)
    made.add("user_annotation", f"{{'Module': 'top.{DOWN}', 'Inputs': [[8, 4096]]}}", 10, 50)
    made.launch(1, 20, "a_kernel")
    assert made.read(tmp_path).kernels[0].ranges == (DOWN,)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (RECORDED.read_bytes()[:5000], "is cut off: its gzip data does not end"),
        (gzip.decompress(RECORDED.read_bytes())[:9000], "is not JSON, or cut off"),
        (b'{"a": 1}', "is no Chrome trace"),
        (b'{"traceEvents": []}', "holds no kernels and no operators"),
        (b"[]", "holds no kernels and no operators"),
        (b'{"traceEvents": [{"ph": "X", "cat": "kernel"}, 3, null]}', "holds no kernels"),
        (b"\x1f\x8bnothing", "is cut off"),
    ],
)
def test_a_broken_trace_is_one_clear_line(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=says) as refused:
        read_torch_trace(path)
    assert "\n" not in str(refused.value)


def test_launches_without_kernels_are_no_run_of_a_cpu(tmp_path: Path) -> None:
    made = annotated()
    made.events = [event for event in made.events if event.get("cat") != "kernel"]
    with pytest.raises(BadInput, match=r"has launches but no kernels.*ProfilerActivity\.CUDA"):
        made.read(tmp_path, H200)
    with pytest.raises(BadInput, match="cannot be read"):
        read_torch_trace(tmp_path / "absent.json")


spans = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20), st.integers(0, 1)), max_size=12)


@given(spans, spans)
def test_what_is_open_at_a_moment(events: list[Any], moments: list[Any]) -> None:
    def made(rows: list[Any]) -> list[Event]:
        return [Event("e", "", start, time, ("1", str(t)), {}) for start, time, t in rows]

    opened, asked = made(events), made(moments)
    seen = list(open_at(opened, asked))
    assert sorted(id(moment) for moment, _ in seen) == sorted(map(id, asked))
    for moment, around in seen:
        expected = [
            other
            for other in opened
            if other.thread == moment.thread
            and other.start_us <= moment.start_us < other.end_us
            and (other.start_us, -other.time_us) <= (moment.start_us, -moment.time_us)
        ]
        assert sorted(map(id, around)) == sorted(map(id, expected))
        starts = [other.start_us for other in around]
        assert starts == sorted(starts)  # outermost first
