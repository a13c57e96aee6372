"""A profile, a plan of that very profile, and a verdict on its model, as every view shows them."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from fp8scope.artefacts.identity import check_same_model
from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import read_plan
from fp8scope.artefacts.verdict import Verdict
from fp8scope.artefacts.verdict_file import read_verdict
from fp8scope.errors import Stale
from fp8scope.profile.digest import profile_hash
from fp8scope.profile.reader import open_profile
from fp8scope.profile.record import Profile
from fp8scope.report.snapshot import Snapshot, opened


def open_snapshot(path: Path, plan: Path | None = None, verdict: Path | None = None) -> Snapshot:
    """What is known at once. Raises NotAProfile, BadInput, and Stale if the plan is of another
    profile, or the verdict of another model.
    """
    profile = open_profile(path)
    found = opened(path, profile, _read_plan(plan, path, profile) if plan else None, plan)
    return replace(found, ran=_read_verdict(verdict, path, profile)) if verdict else found


def _read_plan(path: Path, of: Path, profile: Profile) -> Plan:
    plan = read_plan(path)
    remedy = f"make it again with fp8scope plan {shlex.quote(str(of))}, or leave --plan out"
    check_same_model(plan.model.model_dump(), str(path), profile.model, str(of), remedy)
    if plan.profile.profile_hash != profile_hash(profile):
        raise Stale(f"{path} was made from another profile of this model than {of}", remedy)
    return plan


def _read_verdict(path: Path, of: Path, profile: Profile) -> Verdict:
    """Of the model that was scanned, whichever plan it was built by."""
    verdict = read_verdict(path)
    remedy = "give the verdict on this model, or leave --verdict out"
    check_same_model(verdict.model.model_dump(), str(path), profile.model, str(of), remedy)
    return verdict
