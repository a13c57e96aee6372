"""plan.json and plan.npz on disk: written whole or not at all, read with every check."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fp8scope.artefacts.atomic import write_atomically
from fp8scope.artefacts.json_file import first_fault, read_object
from fp8scope.artefacts.plan import VERSION, Factors, Plan
from fp8scope.errors import CannotWrite, DamagedPlan, NotAPlan, PlanVersion

Arrays = Mapping[str, NDArray[np.float32]]
AGAIN = "make it again with fp8scope plan"


def factors_path(path: Path) -> Path:
    """Where the smoothing factors of the plan at `path` lie: `plan.json` has `plan.npz`, `plan.v2`
    has `plan.v2.npz`.
    """
    return path.with_name(f"{path.name.removesuffix('.json')}.npz")


def write_plan(plan: Plan, factors: Arrays, path: Path) -> Plan:
    """Write both files, the factors first, and return the plan as written.

    factors: one array for the `key` of every fold. Without any, those of the plan that was at
    `path` before are deleted, and no other file. Raises CannotWrite.
    """
    beside = factors_path(path)
    stale = not factors and _are_factors_of(path, beside)
    if factors:
        data = _npz(factors)
        digest = hashlib.sha256(data).hexdigest()
        plan = plan.model_copy(update={"factors": Factors(file=beside.name, sha256=digest)})
        write_atomically(beside, data)
    else:
        plan = plan.model_copy(update={"factors": None})
    try:
        write_atomically(path, plan_text(plan).encode())
    except CannotWrite:
        if factors and not path.exists():
            beside.unlink(missing_ok=True)  # factors of no plan
        raise
    if stale:
        beside.unlink(missing_ok=True)
    return plan


def plan_text(plan: Plan) -> str:
    """The JSON as it is written."""
    return json.dumps(plan.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n"


def read_plan(path: Path) -> Plan:
    """The plan at `path`. Raises BadInput (no such file), NotAPlan, PlanVersion, DamagedPlan."""
    data = read_object(path, "plan", NotAPlan)
    if data.get("version") != VERSION:
        what = f"{path} is a plan of version {data.get('version')}, this release reads {VERSION}"
        raise PlanVersion(what, AGAIN)
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        raise DamagedPlan(f"{path}: {first_fault(error)}", AGAIN) from error


def read_factors(plan: Plan, path: Path) -> dict[str, NDArray[np.float32]]:
    """The factors of the folds of the plan that was read from `path`, by key.

    Raises DamagedPlan where they are missing, or not those that the plan was written with.
    """
    if plan.factors is None:
        if plan.folds:
            raise DamagedPlan(f"{path}: it folds, and names no factors", AGAIN)
        return {}
    beside = path.parent / Path(plan.factors.file).name
    try:
        data = beside.read_bytes()
    except OSError as error:
        raise DamagedPlan(
            f"{beside}: the plan's smoothing factors cannot be read ({error.strerror})", AGAIN
        ) from error
    if hashlib.sha256(data).hexdigest() != plan.factors.sha256:
        raise DamagedPlan(f"{beside}: these are not the factors of {path}", AGAIN)
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        found = {fold.key: stored[fold.key] for fold in plan.folds if fold.key in stored}
    missing = [fold.key for fold in plan.folds if fold.key not in found]
    if missing:
        raise DamagedPlan(f"{beside}: no factors {missing[0]}", AGAIN)
    return found


def _are_factors_of(path: Path, beside: Path) -> bool:
    """Whether the plan at `path` was written with the very factors that lie at `beside`."""
    try:
        named = json.loads(path.read_bytes())["factors"]["sha256"]
        return bool(hashlib.sha256(beside.read_bytes()).hexdigest() == named)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _npz(arrays: Arrays) -> bytes:
    """As np.savez writes it, but always the same bytes: its entries carry the time of day."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in sorted(arrays.items()):
            entry = io.BytesIO()
            np.save(entry, np.asarray(array, np.float32), allow_pickle=False)
            info = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, entry.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
