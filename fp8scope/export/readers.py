"""Which engines will run a finished checkpoint as its plan says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fp8scope.errors import BadInput
from fp8scope.export.checking import Checked, check
from fp8scope.export.registry import all_consumers


@dataclass(frozen=True)
class Reader:
    """A consumer of the checkpoint: how many of its layers will run as planned, and what is wrong
    where not all do; empty where all is as planned.
    """

    name: str
    version: str
    layers: int
    as_planned: int
    fault: str

    @property
    def holds(self) -> bool:
        """Whether it will do as planned."""
        return not self.fault

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "version": self.version,
            "layers": self.layers,
            "as_planned": self.as_planned,
            "fault": self.fault,
        }


def readers(folder: Path, form: str) -> tuple[Reader, ...]:
    """Everybody who reads metadata of `form`, and what they will make of the checkpoint."""
    return tuple(_reader(folder, each.name) for each in all_consumers() if form in each.reads)


def _reader(folder: Path, name: str) -> Reader:
    try:
        found = check(folder, name)
    except BadInput as refusal:
        return Reader(name, "", 0, 0, refusal.what)
    layers, wrong = len(found.proof.rows), len(found.proof.differences)
    fault = "" if found.proof.holds else _fault(found)
    return Reader(name, found.version, layers, layers - wrong, fault)


def _fault(found: Checked) -> str:
    """The first, or what befalls most layers, without their names."""
    notes = Counter(row.outcome.error or row.outcome.note for row in found.proof.differences)
    (why, _), *_ = notes.most_common(1) or [("", 0)]
    sentences = [fault.sentence for fault in found.proof.faults]
    return why or next(iter(sentences), "some layers differ").rstrip(".")
