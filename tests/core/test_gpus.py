"""The table of GPUs: complete, dense, and found by the names that people use."""

from __future__ import annotations

import pytest

from fp8scope.core.gpus import GPUS, Gpu, gpu, gpu_of_device
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
    times = 4 if entry.name.startswith("rtx-") and "ada" not in entry.name else 2
    assert rates["int8"] == pytest.approx(times * rates["bf16"], rel=0.005)


def test_what_is_asked_for_is_there() -> None:
    """Figures of the datasheets; the A100 has no FP8 Tensor Cores."""
    h100, a100 = gpu("h100-sxm"), gpu("a100")
    assert (h100.memory_gb, h100.bandwidth_gb_s) == (80, 3350)
    assert h100.tflops == {"bf16": 989.5, "fp8": 1979, "int8": 1979}
    assert gpu("gb10").bandwidth_gb_s == 273
    without = {entry.name for entry in GPUS.values() if not entry.has_fp8}
    assert without == {a100.name, "a100-pcie-80gb", "a100-sxm-40gb"}


@every
def test_fp8_comes_with_compute_capability_8_9(entry: Gpu) -> None:
    assert entry.has_fp8 == (entry.compute_capability >= (8, 9))


def test_no_two_gpus_share_a_device_name() -> None:
    names = [device.lower() for entry in GPUS.values() for device in entry.devices]
    assert len(names) == len(set(names))
    assert all(entry.devices for entry in GPUS.values())


@pytest.mark.parametrize(
    ("device", "memory", "found"),
    [
        # memory as torch or nvidia-smi gave it in public reports
        ("NVIDIA H200", 150_754_820_096, "h200-sxm"),
        ("NVIDIA H200", None, "h200-sxm"),
        ("NVIDIA H100 80GB HBM3", 85_029_158_912, "h100-sxm"),
        ("NVIDIA H100 PCIe", 81_559 * 2**20, "h100-pcie"),
        ("NVIDIA H100 NVL", 99_961_274_368, "h100-nvl"),
        ("NVIDIA GH200 480GB", 97_280 * 2**20, "gh200-96gb"),
        ("NVIDIA GH200 144G HBM3e", 153_008_209_920, "gh200-144gb"),
        ("NVIDIA A100-SXM4-80GB", 85_051_572_224, "a100-sxm-80gb"),
        ("NVIDIA A100-SXM4-40GB", 42_297_786_368, "a100-sxm-40gb"),
        ("NVIDIA B300 SXM6 AC", None, "b300"),
        ("NVIDIA GB10", 128_500_000_000, "gb10"),
        ("nvidia  l40s", 46_068 * 2**20, "l40s"),
        ("NVIDIA GeForce RTX 4090", 24_564 * 2**20, "rtx-4090"),
    ],
)
def test_a_device_is_found_by_what_cuda_calls_it(
    device: str, memory: int | None, found: str
) -> None:
    entry = gpu_of_device(device, memory)
    assert entry is not None
    assert entry.name == found


@pytest.mark.parametrize(
    ("device", "memory"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9_728 * 2**20),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None),
        ("NVIDIA GeForce RTX 4090 D", 24_564 * 2**20),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16_376 * 2**20),
        ("NVIDIA A40", 46_068 * 2**20),
        ("NVIDIA H100 80GB HBM3", 9_728 * 2**20),  # a slice under the name of the whole
        ("NVIDIA H20", None),
        ("", None),
    ],
)
def test_what_is_not_whole_or_not_known_is_no_gpu_of_ours(device: str, memory: int | None) -> None:
    assert gpu_of_device(device, memory) is None


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
