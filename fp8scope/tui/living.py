"""A plan that can be changed: what every change does to KL, bits and time, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from fp8scope.artefacts.plan import Plan, Precision


class Living(Protocol):
    """To be replaced by the class itself; what screens rely on."""

    @property
    def changed(self) -> bool:
        """Whether there is something that is not saved."""

    def precision(self, name: str) -> Precision | None:
        """What a fused group runs in; of a KV cache fp8_tensor or bf16; None if unknown."""

    def plan(self) -> Plan:
        """The plan as it is now, complete."""

    def save(self) -> Path:
        """Write the plan to where it came from, or a new file. Raises CannotWrite."""
