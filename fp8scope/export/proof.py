"""The proof: what every layer should run in beside what the consumer will do, and why they differ.

A `Reading` answers for every layer and every entry of every list.
"""

from __future__ import annotations

from dataclasses import dataclass

from fp8scope.export.consumer import Reading
from fp8scope.export.faults import Fault, Row, faults


@dataclass(frozen=True)
class Proof:
    """Of one config on one model. It holds where no layer differs and no fault was found."""

    rows: tuple[Row, ...]
    faults: tuple[Fault, ...]

    @property
    def differences(self) -> tuple[Row, ...]:
        """The rows that differ."""
        return tuple(row for row in self.rows if row.differs)

    @property
    def holds(self) -> bool:
        """Whether the consumer will do just what is wanted."""
        return not self.faults and not self.differences


def prove(reading: Reading) -> Proof:
    """Every layer's outcome against what its modules should run in, and every fault of the lists.

    Each difference is explained by a fault: the entry that causes it, or that there is none.
    """
    rows = tuple(Row(layer, reading.outcome(layer)) for layer in reading.layers)
    return Proof(rows, tuple(faults(reading, rows)))
