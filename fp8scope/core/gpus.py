"""The GPUs that a plan can be made for: what each could do at most, from `gpus.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from fp8scope.errors import BadInput


@dataclass(frozen=True)
class Gpu:
    """Peak figures of one GPU.

    memory_gb: 1e9 bytes. bandwidth_gb_s: of its memory, 1e9 bytes/s. tflops: dense rate of the
    Tensor Cores, 1e12 operations/s, by "bf16", "fp8" (absent without FP8 Tensor Cores) and
    "int8". memory_shared_with: "CPU", or "OS" where that may take of it as of its own, else "".
    compute_capability: major and minor. devices: what CUDA and NVML call it. source: where
    the figures are from, a URL or the title of a document.
    """

    name: str
    title: str
    compute_capability: tuple[int, int]
    devices: tuple[str, ...]
    memory_gb: float
    bandwidth_gb_s: float
    tflops: Mapping[str, float]
    source: str
    memory_shared_with: Literal["CPU", "OS", ""] = ""

    @property
    def has_fp8(self) -> bool:
        """Whether its Tensor Cores multiply FP8: compute capability 8.9 and up."""
        return "fp8" in self.tflops


_ROWS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("gpus.json").read_text(encoding="utf-8")
)["gpus"]


def _gpu(row: Mapping[str, Any]) -> Gpu:
    major, minor = row["compute_capability"]
    own = {field: row[field] for field in Gpu.__dataclass_fields__ if field in row}
    return Gpu(**own | {"compute_capability": (major, minor), "devices": tuple(row["devices"])})


GPUS: Mapping[str, Gpu] = {row["name"]: _gpu(row) for row in _ROWS}
_ALIASES = {alias: row["name"] for row in _ROWS for alias in row["aliases"]}
_DEVICES = {device.lower(): gpu for gpu in GPUS.values() for device in gpu.devices}
_SAME_MEMORY = (0.9, 1.1)
"""What a device reports over what is sold: 85e9 bytes for 80 GB (H100), 48e9 for 48 (L40S)."""


def gpu(name: str) -> Gpu:
    """The GPU called `name` (`h100-sxm`), or known by it (`H200`). Raises BadInput."""
    key = "-".join(name.lower().replace("_", " ").replace("-", " ").split())
    key = key.removeprefix("nvidia-").removeprefix("geforce-")
    key = _ALIASES.get(key, key)
    if key in GPUS:
        return GPUS[key]
    near = get_close_matches(key, [*GPUS, *_ALIASES], n=1)
    nearest = f"did you mean {near[0]}? " if near else ""
    raise BadInput(f"there is no GPU {name} in the table", f"{nearest}known: {', '.join(GPUS)}")


def gpu_of_device(name: str, memory_bytes: int | None = None) -> Gpu | None:
    """The GPU that CUDA or NVML call `name` (`NVIDIA H200`); None where that is not known.

    Only a whole GPU is known: a MIG slice has a name of its own (`… MIG 1g.10gb`), and whatever has
    another memory than what was sold, as a virtual one may, is another device.
    """
    found = _DEVICES.get(" ".join(name.lower().split()))
    if found is None or memory_bytes is None:
        return found
    least, most = _SAME_MEMORY
    return found if least <= memory_bytes / (found.memory_gb * 1e9) <= most else None
