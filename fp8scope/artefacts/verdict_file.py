"""verdict.json on disk: written whole or not at all, read with every check."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from fp8scope.artefacts.atomic import write_atomically
from fp8scope.artefacts.json_file import first_fault, read_object
from fp8scope.artefacts.verdict import VERSION, Verdict
from fp8scope.errors import DamagedVerdict, NotAVerdict, VerdictVersion

AGAIN = "make it again with fp8scope verify"


def write_verdict(verdict: Verdict, path: Path) -> None:
    """Raises CannotWrite."""
    write_atomically(path, verdict_text(verdict).encode())


def verdict_text(verdict: Verdict) -> str:
    """The JSON as it is written."""
    return json.dumps(verdict.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n"


def read_verdict(path: Path) -> Verdict:
    """Raises BadInput (no such file), NotAVerdict, VerdictVersion, DamagedVerdict."""
    data = read_object(path, "verdict", NotAVerdict)
    if data.get("version") != VERSION:
        what = f"{path} is a verdict of version {data.get('version')}, this release reads {VERSION}"
        raise VerdictVersion(what, AGAIN)
    try:
        return Verdict.model_validate(data)
    except ValidationError as error:
        raise DamagedVerdict(f"{path}: {first_fault(error)}", AGAIN) from error
