"""Asserting what examining a folder finds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fp8scope.checkpoint.doctor.diagnosis import Diagnosis, Fault
from fp8scope.checkpoint.doctor.examine import examine


def the_error(folder: Path, code: str, where: Iterable[str] = ()) -> Fault:
    """The one error there is; it concerns `where`, and maybe more."""
    fault = the_fault(folder, code, where)
    assert fault.severity == "error", fault
    return fault


def the_fault(folder: Path, code: str, where: Iterable[str] = ()) -> Fault:
    """The one fault of this code; no other is an error."""
    found = examine(folder)
    of_code = [fault for fault in found.faults if fault.code == code]
    assert len(of_code) == 1, shown(found)
    assert [fault.code for fault in found.errors if fault.code != code] == [], shown(found)
    fault = of_code[0]
    assert set(where) <= set(fault.where), fault
    assert fault.remedy
    assert not fault.what.endswith(".")
    return fault


def shown(diagnosis: Diagnosis) -> str:
    """Every fault on a line."""
    return "\n".join(f"{f.severity} {f.code}: {f.what} → {f.remedy}" for f in diagnosis.faults)
