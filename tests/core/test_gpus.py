"""The table of GPUs: complete, dense, and found by the names that people use."""

from __future__ import annotations

import pytest

from fp8scope.core.gpus import GPUS, Gpu, gpu
from fp8scope.errors import BadInput

every = pytest.mark.parametrize("entry", GPUS.values(), ids=list(GPUS))


@every
def test_an_entry_is_complete(entry: Gpu) -> None:
    assert entry.memory_gb > 0
    assert entry.bandwidth_gb_s > 0
    assert set(entry.tflops) - {"fp8"} == {"bf16", "int8"}
    assert all(rate > 0 for rate in entry.tflops.values())
    assert entry.title.startswith("NVIDIA ")
    assert entry.source


@every
def test_eight_bits_run_at_twice_the_rate_of_sixteen(entry: Gpu) -> None:
    """A figure with sparsity beside a dense one would show as 4 or 1."""
    rates = entry.tflops
    assert rates.get("fp8", 2 * rates["bf16"]) == pytest.approx(2 * rates["bf16"], rel=0.005)
    # GeForce accumulates floats in FP32 at half the rate; integers are not slowed
    times = 4 if entry.name == "rtx-4090" else 2
    assert rates["int8"] == pytest.approx(times * rates["bf16"], rel=0.005)


def test_what_is_asked_for_is_there() -> None:
    """Figures of the datasheets; the A100 has no FP8 Tensor Cores."""
    h100, a100 = gpu("h100-sxm"), gpu("a100")
    assert (h100.memory_gb, h100.bandwidth_gb_s) == (80, 3350)
    assert h100.tflops == {"bf16": 989.5, "fp8": 1979, "int8": 1979}
    assert gpu("gb10").bandwidth_gb_s == 273
    assert {entry.name for entry in GPUS.values() if not entry.has_fp8} == {a100.name}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("h200", "h200-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("a100_sxm_80gb", "a100-sxm-80gb"),
        ("GeForce RTX 4090", "rtx-4090"),
        ("DGX Spark", "gb10"),
    ],
)
def test_names_as_people_write_them(name: str, found: str) -> None:
    assert gpu(name).name == found


def test_an_unknown_name_gets_the_nearest_and_all() -> None:
    with pytest.raises(BadInput, match=r"no GPU h20-sxm .*did you mean h200-sxm.*known: h100-sxm"):
        gpu("h20-sxm")
    with pytest.raises(BadInput, match=r"→ known: h100-sxm, .*l40s"):
        gpu("???")
