"""Which GPU is used: what nvidia-smi lists, and what CUDA_VISIBLE_DEVICES leaves of it.

CUDA numbers GPUs by speed where nothing else is said, nvidia-smi and Nsight by their place on the
bus: the run gets the GPU by its UUID, so that all of them mean the same one.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fp8scope.traces.record import Device

VISIBLE = "CUDA_VISIBLE_DEVICES"
_FOLDERS = ("/usr/local/nvidia/bin", "/usr/lib/wsl/lib")
"""Where containers and WSL have nvidia-smi without saying so in PATH."""
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_FIELDS = ("index", "uuid", "name", "memory.total", "compute_cap", "mig.mode.current")
_DRIVER = "driver_version"


@dataclass(frozen=True)
class Present:
    """A GPU as nvidia-smi lists it. `mig`: it is divided into slices."""

    index: int
    uuid: str
    name: str
    memory_bytes: int | None
    compute_capability: tuple[int, int] | None
    mig: bool
    driver: str


@dataclass(frozen=True)
class Used:
    """The GPU of a run, None without one; `environment` leads there. `notes`: in sentences."""

    gpu: Present | None
    environment: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def device(self) -> Device:
        """As a `RunRecord` tells it."""
        if self.gpu is None:
            return Device(kind="cpu", name="CPU")
        return Device(
            kind="cuda",
            name=self.gpu.name,
            compute_capability=self.gpu.compute_capability,
            memory_bytes=None if self.gpu.mig else self.gpu.memory_bytes,
            mig=self.gpu.mig,
            driver=self.gpu.driver,
        )


def present() -> tuple[Present, ...]:
    """The GPUs of this machine, in the order of the bus; none where there is no driver."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_FOLDERS))
    tool = shutil.which("nvidia-smi", path=path)
    if tool is None:
        return ()
    query = f"--query-gpu={','.join((*_FIELDS, _DRIVER))}"
    try:
        done = subprocess.run(  # noqa: S603
            [tool, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            check=False,
            timeout=60,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if done.returncode:  # "NVIDIA-SMI has failed because it couldn't communicate …"
        return ()
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return tuple(_present(row) for row in rows if len(row) == len(_FIELDS) + 1)


def _present(row: list[str]) -> Present:
    index, uuid, name, memory, capability, mig, driver = (each.strip() for each in row)
    major, _, minor = capability.partition(".")
    return Present(
        int(index),
        uuid,
        name,
        int(memory) * 2**20 if memory.isdecimal() else None,
        (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None,
        mig == "Enabled",
        driver,
    )


def unlisted() -> tuple[str, ...]:
    """A sentence where a driver is here all the same, if `present` gave none."""
    if not _KERNEL_MODULE.exists():
        return ()
    return ("an NVIDIA driver is here, but nvidia-smi is missing or lists no GPU",)


def use_one(gpus: tuple[Present, ...], environment: Mapping[str, str] | None = None) -> Used:
    """The first GPU that CUDA_VISIBLE_DEVICES shows; where it shows several, which one is said."""
    asked = (os.environ if environment is None else environment).get(VISIBLE)
    seen, sliced = _visible(gpus, asked)
    if sliced is not None:
        note = (
            f"the run sees a slice of a GPU (MIG, {sliced}): figures are of the slice, and "
            "profilers may not see its counters"
        )
        gpu = next((each for each in gpus if each.mig), None)
        return Used(gpu, {VISIBLE: sliced}, (note,))
    if not seen:
        hides = gpus and asked is not None
        hidden = (f"{VISIBLE}={asked} hides all {len(gpus)} GPUs",) if hides else ()
        return Used(None, {}, hidden)
    gpu = seen[0]
    notes = []
    if len(seen) > 1:
        notes.append(
            f"{len(seen)} GPUs are visible, and GPU {gpu.index} ({gpu.name}) is used: "
            f"{VISIBLE}={seen[1].index} takes the next"
        )
    if gpu.mig:
        notes.append(
            f"GPU {gpu.index} ({gpu.name}) is divided (MIG): CUDA takes its first slice, figures "
            "are of that, and profilers may not see its counters"
        )
    where = {} if gpu.mig else {VISIBLE: gpu.uuid}  # the whole of a divided GPU cannot be named
    return Used(gpu, where, tuple(notes))


def _visible(
    gpus: tuple[Present, ...], asked: str | None
) -> tuple[tuple[Present, ...], str | None]:
    """The GPUs that `asked` shows, in its order, or the slice that it begins with. As CUDA reads
    it: the first word that names nothing ends the list.
    """
    if asked is None:
        return gpus, None
    seen: list[Present] = []
    for word in (each.strip() for each in asked.split(",")):
        if word.startswith("MIG-") and not seen:
            return (), word
        found = [
            gpu
            for gpu in gpus
            if word == str(gpu.index) or (word.startswith("GPU-") and gpu.uuid.startswith(word))
        ]
        if len(found) != 1:
            break
        seen += found
    return tuple(seen), None
