"""Reports from Python: what `fp8scope report` and `compare -o` write."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fp8scope.analyze.compare import compare_profiles
from fp8scope.errors import BadInput
from fp8scope.profile.reader import open_profile
from fp8scope.report.document.blocks import Document
from fp8scope.report.document.html import html
from fp8scope.report.document.markdown import markdown
from fp8scope.report.opening import open_snapshot
from fp8scope.report.pages.comparison import comparison_report
from fp8scope.report.pages.profile import LAYERS, profile_report
from fp8scope.report.snapshot import filled


def make_report(
    profile: Path | str,
    plan: Path | str | None = None,
    *,
    verdict: Path | str | None = None,
    layers: int = LAYERS,
    form: Literal["html", "md"] = "html",
) -> str:
    """A profile, and a plan of it, as one file that needs no network, or as Markdown.

    verdict: the verdict.json of a build of the model. layers: how many are shown in full, the worst
    first. Takes half a minute of a 70B model's profile. Raises NotAProfile, DamagedProfile,
    BadInput, and Stale if the plan or the verdict is of another.
    """
    paths = [Path(each) if each else None for each in (plan, verdict)]
    snapshot = open_snapshot(Path(profile), *paths)
    *_, whole = filled(snapshot)
    return _written(profile_report(whole, layers=layers), form)


def make_comparison(
    a: Path | str,
    b: Path | str,
    *,
    limit: float | None = None,
    form: Literal["html", "md"] = "html",
) -> str:
    """What changed from profile A to profile B; `limit` is the share that `--fail-above` takes.

    Raises NotAProfile, DamagedProfile and CannotCompare.
    """
    profiles, names = (open_profile(Path(a)), open_profile(Path(b))), (Path(a).name, Path(b).name)
    found = compare_profiles(*profiles)
    return _written(comparison_report(found, *profiles, limit=limit, names=names), form)


def _written(document: Document, form: Literal["html", "md"]) -> str:
    writers = {"html": html, "md": markdown}
    if form not in writers:
        raise BadInput(f"there is no form {form!r}", f"one of {', '.join(writers)}")
    return writers[form](document)
