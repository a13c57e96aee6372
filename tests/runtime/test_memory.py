"""How much memory is left: what the system says, a container's limit, and where nobody says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fp8scope.runtime import memory

CPU = torch.device("cpu")
GIB = 1 << 30


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB available, in no container."""
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text(
        f"MemTotal:       {16 * GIB // 1024} kB\nMemAvailable:   {8 * GIB // 1024} kB\n"
    )
    return tmp_path


def container(folder: Path, most: str, used: int = 3 * GIB, cache: int = GIB) -> None:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"anon {used - 2 * cache}\nfile {2 * cache}\nshmem {cache}\n"
        f"active_file {cache // 4}\ninactive_file {cache - cache // 4}\n"
    )


def test_what_the_system_says(system: Path) -> None:
    assert memory.available_bytes(CPU) == 8 * GIB


def test_a_container_s_limit_is_lower_and_its_cache_gives_way(system: Path) -> None:
    container(system, str(4 * GIB))
    assert memory.available_bytes(CPU) == 2 * GIB  # files in memory (shmem) do not
    container(system, str(100 * GIB))
    assert memory.available_bytes(CPU) == 8 * GIB
    container(system, "max")
    assert memory.available_bytes(CPU) == 8 * GIB
    container(system, str(GIB))
    assert memory.available_bytes(CPU) == 0


def test_where_the_system_does_not_say(system: Path) -> None:
    (system / "meminfo").unlink()
    assert memory.available_bytes(CPU) is None
    (system / "meminfo").write_text("MemAvailable: a lot kB\n")
    assert memory.available_bytes(CPU) is None
    (system / "memory.max").write_text(f"{4 * GIB}\n")  # and nothing else
    assert memory.available_bytes(CPU) is None
    assert memory.available_bytes(torch.device("meta")) is None


def test_this_machine_says_something_that_can_be() -> None:
    found = memory.available_bytes(CPU)
    assert found is None or 0 < found < 1 << 50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_says_what_is_free() -> None:
    found = memory.available_bytes(torch.device("cuda"))
    assert found is not None
    assert 0 < found <= torch.cuda.get_device_properties(0).total_memory


def test_of_a_device_what_torch_keeps_for_itself_can_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a first pass most of a device is in torch's cache, and nearly none is free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 70 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 20 * GIB)
    assert memory.available_bytes(torch.device("cuda")) == 51 * GIB
