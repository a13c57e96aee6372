"""The device that a run was on, as a record names it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

from fp8scope.traces.record import Device

_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_CPUS = Path("/proc/cpuinfo")


def describe(device: torch.device) -> Device:
    """Name, size and driver of a device that is here."""
    if device.type != "cuda":
        return Device(kind="cpu", name=_cpu_name())
    found = torch.cuda.get_device_properties(device)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return Device(
        kind="cuda",
        name=found.name,
        compute_capability=(found.major, found.minor),
        memory_bytes=found.total_memory,
        sms=found.multi_processor_count,
        mig=is_mig(found.name, visible),
        driver=driver_version(_text(_KERNEL_MODULE)),
    )


def is_mig(name: str, visible: str) -> bool:
    """Whether a device is a slice of a GPU: it says so in its name (`H200 MIG 1g.18gb`), or was
    asked for as one.
    """
    return " MIG " in f" {name} " or visible.startswith("MIG-")


def driver_version(said: str) -> str:
    """The version in what the kernel module says of itself; empty where there is none."""
    found = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", said)
    return found[1] if found else ""


def _cpu_name() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _text(_CPUS), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
