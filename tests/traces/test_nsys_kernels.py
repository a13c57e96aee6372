"""Kernels under real ranges: constructed to nsys's schema, never seen from a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from fp8scope.traces.nsys import read_nsys
from fp8scope.traces.trace import SeenDevice
from tests.traces.make_nsys import STEPS, linears
from tests.traces.nsys_file import BF16, FP8, FUSED, Filled

LINEARS = [f"{module}.{member}" for module, member in linears()]
BARE = 1
"""The prefill that holds no range on its own thread."""


def test_kernels_lie_in_the_ranges_that_launched_them(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        for name in LINEARS:
            prefill, *steps, _ = file.spans(name)
            file.launch(BF16 if name.endswith("1.mlp.down_proj") else FP8, prefill, 400_000)
            for step in steps:
                file.launch(FP8, step, 20_000)
    trace = read_nsys(file.path)
    assert len(trace.kernels) == len(LINEARS) * (1 + STEPS)
    prefill_us = {k.ranges[-1]: k.time_us for k in trace.kernels if k.ranges[0] == "prefill"}
    assert prefill_us == dict.fromkeys(LINEARS, 400.0)
    decode = [k for k in trace.kernels if k.ranges[0] == "decode"]
    assert [k.ranges for k in decode] == [
        ("decode", name.rpartition(".")[0], name) for _ in range(STEPS) for name in LINEARS
    ]
    assert {k.ranges[-1] for k in trace.kernels if k.name == BF16} == {
        "model.layers.1.mlp.down_proj"
    }
    assert {k.blocks for k in trace.kernels} == {264}
    assert (trace.tool, trace.tool_version, trace.on_gpu) == ("nsys", "2023.4.4.54", True)
    starts = [k.start_us for k in trace.kernels if k.start_us is not None]
    assert starts == sorted(starts)
    assert len(trace.ranges) == 177


def test_a_launch_outside_every_range_has_none(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        start, end, thread = file.spans("prefill")[0]
        file.kernel(FUSED, file.call(start - 1000, thread), end, 10)
        file.kernel(FUSED, file.call(start + 1, thread, end=end + 1), end, 10)
        file.kernel(FUSED, file.call(start + 1, thread + 1), end, 10)
    assert [kernel.ranges for kernel in read_nsys(file.path).kernels] == [(), (), ()]


def test_kernels_whose_launch_was_not_recorded_are_counted(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        file.launch(FP8, file.spans("prefill")[BARE], 10)
        file.kernel(FP8, 999, 0, 10)
    trace = read_nsys(file.path)
    assert [kernel.ranges for kernel in trace.kernels] == [(), ("prefill",)]
    assert "the launches of 1 of 2 kernels were not recorded: no range" in trace.notes


def test_nodes_of_a_cuda_graph_lie_where_the_graph_was_launched(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        start, end, thread = file.spans("decode")[2]
        launch = file.call((start + end) // 2, thread)
        for node in range(5):
            file.kernel(FP8, launch, end + node * 100, 50, graphNodeId=node + 1)
    assert [kernel.ranges[0] for kernel in read_nsys(file.path).kernels] == ["decode"] * 5


def test_the_same_correlation_in_two_processes_is_two_launches(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        prefill = file.spans("prefill")[BARE]
        file.launch(FP8, prefill, 10)
        other = file.process + (7 << 24)
        file.add(
            "CUPTI_ACTIVITY_KIND_RUNTIME", start=1, end=2, globalTid=other + 5, correlationId=1
        )
        file.kernel(BF16, 1, prefill[1], 10, globalPid=other)
    ranges = {kernel.name: kernel.ranges for kernel in read_nsys(file.path).kernels}
    assert ranges == {FP8: ("prefill",), BF16: ()}


def test_two_gpus_are_told_apart_whatever_a_process_calls_them(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        prefill = file.spans("prefill")[BARE]
        for index in (0, 1):
            file.gpu(index, "NVIDIA H200")
        # CUDA_VISIBLE_DEVICES=1: the process calls the second GPU its device 0.
        file.add("TARGET_INFO_CUDA_DEVICE", gpuId=1, cudaId=0, pid=file.pid, numMultiprocessors=132)
        file.launch(FP8, prefill, 10, deviceId=0)
        file.metric("SMs Active [Throughput %]", [(10, 98)], device=1)
        file.metric("SMs Active [Throughput %]", [(10, 0)], device=0)
    trace = read_nsys(file.path)
    assert [kernel.device for kernel in trace.kernels] == [1]
    assert [(s.device, s.values) for s in trace.samples] == [(0, (0.0,)), (1, (0.98,))]
    assert trace.devices == tuple(
        SeenDevice(index, "NVIDIA H200", (9, 0), 132, 150_754_820_096) for index in (0, 1)
    )


@pytest.mark.parametrize(
    ("name", "uuid", "sms", "mig"),
    [
        ("NVIDIA H200", "GPU-5b", 132, False),
        ("NVIDIA H200 MIG 1g.18gb", "GPU-5b", 132, True),
        ("NVIDIA H200", "MIG-5b", 132, True),
        ("NVIDIA H200", "GPU-5b", 16, True),
    ],
)
def test_a_slice_of_a_gpu_is_known(
    tmp_path: Path, name: str, uuid: str, sms: int, mig: bool
) -> None:
    with Filled(tmp_path) as file:
        file.gpu(0, name)
        file.add(
            "TARGET_INFO_CUDA_DEVICE",
            gpuId=0,
            cudaId=0,
            pid=file.pid,
            uuid=uuid,
            numMultiprocessors=sms,
        )
        file.launch(FP8, file.spans("prefill")[BARE], 10)
    (device,) = read_nsys(file.path).devices
    assert (device.mig, device.sms) == (mig, sms)


def test_gpu_metrics_are_shares_and_reads_and_writes_of_dram_add_up(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        file.launch(FP8, file.spans("prefill")[BARE], 10)
        file.metric("SM Active [Throughput %]", [(3000, 97), (1000, 76), (2000, -1)])
        file.metric("Tensor Active [Throughput %]", [(1000, 61)])
        file.metric("DRAM Read Bandwidth [Throughput %]", [(1000, 40), (3000, 90)])
        file.metric("DRAM Write Bandwidth [Throughput %]", [(1000, 10), (3000, 20)])
        file.metric("GPC Clock Frequency [MHz]", [(1000, 1980)])
        file.metric("Compute Warps in Flight [Avg]", [(1000, 30)])
    trace = read_nsys(file.path)
    found = {sampled.counter: (sampled.times_us, sampled.values) for sampled in trace.samples}
    assert found == {
        "sm_active": ((1.0, 3.0), (0.76, 0.97)),
        "tensor_active": ((1.0,), (0.61,)),
        "dram_throughput": ((1.0, 3.0), (0.5, 1.0)),
    }
    assert not any("no GPU metrics" in note for note in trace.notes)


def test_a_report_without_gpu_metrics_says_why(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        file.launch(FP8, file.spans("prefill")[BARE], 10)
        for table in ("GPU_METRICS", "TARGET_INFO_GPU_METRICS", "TARGET_INFO_GPU"):
            file.sql(f"DROP TABLE {table}")
    trace = read_nsys(file.path)
    assert trace.samples == ()
    assert trace.devices == ()
    assert any("--gpu-metrics-devices" in note for note in trace.notes)


def test_columns_that_other_versions_lack_are_not_needed(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        file.launch(FP8, file.spans("prefill")[BARE], 10, shortName=file.string("nvjet"))
        for table, column in [
            ("CUPTI_ACTIVITY_KIND_KERNEL", "demangledName"),
            ("CUPTI_ACTIVITY_KIND_KERNEL", "globalPid"),
            ("CUPTI_ACTIVITY_KIND_KERNEL", "gridZ"),
            ("NVTX_EVENTS", "endGlobalTid"),
        ]:
            file.sql(f"ALTER TABLE {table} DROP COLUMN {column}")
    (kernel,) = read_nsys(file.path).kernels
    assert (kernel.name, kernel.ranges, kernel.blocks) == ("nvjet", ("prefill",), None)


def test_modules_of_an_engine_hold_kernels_as_ours_do(tmp_path: Path) -> None:
    with Filled(tmp_path, "layerwise") as file:
        shown = "{'Module': 'top.model.layers.1.mlp.up_proj', 'TrainableParams': {'weight': "
        (span,) = file.spans(shown + "[64, 64]}, 'Inputs': [[8, 64]]}")
        file.launch(FP8, span, 10)
    (kernel,) = read_nsys(file.path).kernels
    assert kernel.ranges == ("model.layers.1.mlp.up_proj",)


def test_graphs_recorded_whole_beside_kernels_are_said(tmp_path: Path) -> None:
    with Filled(tmp_path) as file:
        file.launch(FP8, file.spans("prefill")[BARE], 10)
        file.add("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=1, end=9)
    assert any("--cuda-graph-trace=node" in note for note in read_nsys(file.path).notes)
