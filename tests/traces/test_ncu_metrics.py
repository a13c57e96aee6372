"""Names of metrics, held against NVIDIA's own lists (excerpts of them, in `data/ncu`).

`query-*.txt`: printed by `ncu --query-metrics --chip` 2024.1.1. `nvperf-*.txt`: the names that the
NvPerf library within ncu_report 2025.3.1 gives for a chip; that ncu did not know them yet.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8scope.traces.ncu_metrics import CHIPS, GIVEN, available, counters, metrics_for

LISTS = Path(__file__).parent / "data" / "ncu"
LACKING = {  # what the chips' lists do not have: GeForce counts no DRAM bytes, GB10 no DRAM at all
    "gb202": {"dram__bytes_read", "dram__bytes_write"},
    "gb10b": {"dram__bytes_read", "dram__bytes_write", "gpu__dram_throughput", "dram__throughput"},
    "gb20b": {"dram__bytes_read", "dram__bytes_write", "gpu__dram_throughput", "dram__throughput"},
}
TC = "sm__pipe_tc_cycles_active"  # of Blackwell's data centre chips alone


def listed(chip: str) -> str:
    path = next(LISTS.glob(f"*-{chip}.txt"))
    assert path.read_text().startswith(f"Chip {chip}\n")
    return path.read_text()


@pytest.mark.parametrize("capability", CHIPS, ids=lambda c: CHIPS[c].name)
def test_a_chip_has_what_we_ask_it_for(capability: tuple[int, int]) -> None:
    chip = CHIPS[capability].name
    wished = metrics_for(capability)
    lacking = {
        name.partition(".")[0] for name in set(wished) - set(available(listed(chip), wished))
    }
    assert lacking - {TC} == LACKING.get(chip, set())
    assert (TC in lacking) == (chip not in {"gb100", "gb110", "gb10b"})


@pytest.mark.parametrize("capability", CHIPS, ids=lambda c: CHIPS[c].name)
def test_no_format_of_a_chip_is_left_out(capability: tuple[int, int]) -> None:
    chip = CHIPS[capability]
    told = {
        line.split()[0] for line in listed(chip.name).splitlines() if line.startswith("sm__ops")
    }
    told = {
        name.removeprefix("sm__ops_path_tensor_src_") for name in told if "sparsity" not in name
    }
    assert told - {"fp64", "int1", "int4"} == set(chip.sources)
    has_fp8 = capability >= (8, 9)
    assert has_fp8 == ("fp8_ops" in chip.sources.values())


def test_an_unknown_chip_is_asked_for_everything() -> None:
    everything = set(metrics_for((13, 0)))
    assert all(set(metrics_for(capability)) <= everything for capability in CHIPS)
    assert "sm__ops_path_tensor_src_fp8.sum" in metrics_for((9, 0))
    assert "sm__ops_path_tensor_src_fp4_fp6_fp8_dst_fp32.sum" in metrics_for((10, 0))


def test_what_a_probe_did_not_list_is_not_asked_for() -> None:
    probe = "Chip x\nsm__throughput     Throughput  %   busiest\n\ndram__bytes_readx  Counter\n"
    wished = ["dram__bytes_read.sum", "sm__throughput.avg.pct_of_peak_sustained_elapsed"]
    assert available(probe, wished) == wished[1:]
    assert available("", wished) == []


def test_formats_of_a_blackwell_report() -> None:
    ops = "sm__ops_path_tensor_"
    found = counters(
        {
            f"{ops}src_fp8_dst_fp32.sum": 8.0,
            f"{ops}src_fp8_dst_fp16.sum": 1.0,
            f"{ops}src_fp4_dst_fp32.sum": 4.0,
            f"{ops}src_bf16_dst_fp32.sum": 0.0,
            f"{ops}src_fp8_dst_fp32_sparsity_on.sum": 8.0,
            f"{ops}op_utcqmma_src_fp8_dst_fp32.sum": 8.0,  # counted above already
            f"{ops}op_utchmma_src_fp16_dst_fp32.sum": 2.0,  # the only word on FP16
        }
    )
    assert found == {"fp8_ops": 9.0, "other_tensor_ops": 4.0, "bf16_ops": 0.0, "fp16_ops": 2.0}


def test_the_busier_tensor_pipe_counts() -> None:
    pipes = dict(zip(GIVEN["tensor_active"], (0.1, 0.8), strict=True))
    assert counters(pipes) == {"tensor_active": 0.8}


@given(st.floats(0, 1e9), st.floats(1, 1e9))
def test_a_share_of_active_cycles_is_a_share(active: float, elapsed: float) -> None:
    found = counters({"sm__cycles_active.avg": active, "gpc__cycles_elapsed.max": elapsed})
    assert 0 <= found["sm_active"] <= 1
