"""What examining a checkpoint found, for a person and for --json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fp8scope.checkpoint.doctor.codes import CODES, Severity
from fp8scope.checkpoint.entries import Form
from fp8scope.core.modules import Treatment


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, whatever the number of tensors that have it.

    `code` is one of CODES, and stable. An error makes an engine refuse the checkpoint or compute
    something else, a warning costs quality or speed, or may. `what` is a sentence without its full
    stop. `where`: all tensors, modules or files concerned.
    """

    code: str
    severity: Severity
    what: str
    remedy: str
    where: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.severity not in CODES[self.code][0]:
            raise ValueError(f"{self.code} is no {self.severity}")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "code": self.code,
            "severity": self.severity,
            "what": self.what,
            "remedy": self.remedy,
            "where": list(self.where),
        }


@dataclass(frozen=True)
class CacheFacts:
    """The KV cache: what the metadata says of it, and how many scales of keys and values the files
    hold.
    """

    declared: Literal["fp8", "fp8_dynamic", "other"] | None
    k_scales: int
    v_scales: int


@dataclass(frozen=True)
class Diagnosis:
    """All that was found in `folder`: errors first, then warnings. `linears`: how many are stored
    in what; `bare`: how many of the others are FP8 codes without a scale; `metadata`: which there
    is (`modelopt in config.json`); `form`: that of the one which the tensors were held against,
    None where none could be read.
    """

    folder: Path
    faults: tuple[Fault, ...]
    linears: Mapping[Treatment, int]
    bare: int
    metadata: tuple[str, ...]
    form: Form | None
    kv_cache: CacheFacts
    tensors: int
    nbytes: int

    @property
    def errors(self) -> tuple[Fault, ...]:
        """The faults that are errors."""
        return tuple(fault for fault in self.faults if fault.severity == "error")

    @property
    def warnings(self) -> tuple[Fault, ...]:
        """The faults that are not."""
        return tuple(fault for fault in self.faults if fault.severity == "warning")

    @property
    def healthy(self) -> bool:
        """Whether there are no errors."""
        return not self.errors
