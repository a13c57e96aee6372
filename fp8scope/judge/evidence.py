"""What was gathered of one run: of a checkpoint, or of the BF16 model beside it."""

from __future__ import annotations

from dataclasses import dataclass

from fp8scope.traces.record import RunRecord
from fp8scope.traces.trace import Sampled, Trace


@dataclass(frozen=True)
class Evidence:
    """`traces` of profilers; `record`: what the engine said of itself, None of a report made
    elsewhere. `samples`: NVML's, of the whole GPU while the engine was timed. `reports`: files that
    the traces were read from. `notes`: what could not be had, in sentences.
    """

    traces: tuple[Trace, ...] = ()
    record: RunRecord | None = None
    samples: tuple[Sampled, ...] = ()
    reports: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
