"""Which GPU a run gets; nvidia-smi is a script that prints what the real one does."""

from pathlib import Path

import pytest

from fp8scope.verify import devices
from fp8scope.verify.devices import Present, use_one

H200 = "0, GPU-5f2c3a1e-0000-4a6b-9d77-1f0e2d3c4b5a, NVIDIA H200, 143771, 9.0, Disabled, 580.65.06"
L40S = "1, GPU-77aa0c4d-1111-4a6b-9d77-1f0e2d3c4b5a, NVIDIA L40S, 46068, 8.9, [N/A], 580.65.06"
SLICED = "0, GPU-9e00c4d1-2222-4a6b-9d77-1f0e2d3c4b5a, NVIDIA H200, 143771, 9.0, Enabled, 580.65.06"


def listed(monkeypatch: pytest.MonkeyPatch, folder: Path, *rows: str, code: int = 0) -> None:
    text = "\n".join(rows)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Present, ...]:
    listed(monkeypatch, tmp_path, H200, L40S)
    return devices.present()


def test_what_nvidia_smi_lists(two: tuple[Present, ...]) -> None:
    first, second = two
    assert (first.name, first.compute_capability) == ("NVIDIA H200", (9, 0))
    assert first.memory_bytes == 143771 * 2**20
    assert not first.mig
    assert not second.mig  # [N/A]: it cannot be divided
    assert first.driver == "580.65.06"


def test_a_driver_without_nvidia_smi_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A GPU's machine must not pass for a CPU's without a word."""
    monkeypatch.setattr(devices, "_KERNEL_MODULE", tmp_path / "version")
    assert devices.unlisted() == ()
    (tmp_path / "version").touch()
    (said,) = devices.unlisted()
    assert said == "an NVIDIA driver is here, but nvidia-smi is missing or lists no GPU"


def test_nvidia_smi_where_containers_have_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listed(monkeypatch, tmp_path, H200)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(devices, "_FOLDERS", (str(tmp_path),))
    assert [gpu.name for gpu in devices.present()] == ["NVIDIA H200"]


def test_of_two_gpus_the_one_that_is_used_is_said(two: tuple[Present, ...]) -> None:
    used = use_one(two, {})
    assert used.notes == (
        "2 GPUs are visible, and GPU 0 (NVIDIA H200) is used: CUDA_VISIBLE_DEVICES=1 takes the "
        "next",
    )
    assert used.environment == {"CUDA_VISIBLE_DEVICES": two[0].uuid}
    assert used.device().name == "NVIDIA H200"


@pytest.mark.parametrize("asked", ["1", "GPU-77aa", "1,7,0"])  # as CUDA: 7 ends the list
def test_what_is_asked_for_is_used_without_a_word(asked: str, two: tuple[Present, ...]) -> None:
    used = use_one(two, {"CUDA_VISIBLE_DEVICES": asked})
    assert used.gpu == two[1]
    assert used.notes == ()


@pytest.mark.parametrize("asked", ["-1", "7", "GPU-", ""])  # GPU- fits two
def test_hidden_gpus(asked: str, two: tuple[Present, ...]) -> None:
    used = use_one(two, {"CUDA_VISIBLE_DEVICES": asked})
    assert used.gpu is None
    assert used.device().kind == "cpu"
    assert used.notes == (f"CUDA_VISIBLE_DEVICES={asked} hides all 2 GPUs",)


def test_a_slice_of_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed(monkeypatch, tmp_path, SLICED)
    gpus = devices.present()
    named = use_one(gpus, {"CUDA_VISIBLE_DEVICES": "MIG-2f4d"})
    assert named.environment == {"CUDA_VISIBLE_DEVICES": "MIG-2f4d"}
    assert "sees a slice of a GPU (MIG, MIG-2f4d)" in named.notes[0]
    unnamed = use_one(gpus, {})
    assert unnamed.environment == {}
    assert "is divided (MIG): CUDA takes its first slice" in unnamed.notes[0]
    for used in (named, unnamed):
        assert used.device().mig
        assert used.device().memory_bytes is None  # of the whole, not of the slice


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failed = (
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure "
        "that the latest NVIDIA driver is installed and running."
    )
    listed(monkeypatch, tmp_path, failed, code=9)
    assert devices.present() == ()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert use_one(devices.present(), {}).gpu is None
