"""The report on a profile: the verdict first, then what it rests on."""

from __future__ import annotations

from fp8scope.core.words import printable
from fp8scope.report.document.blocks import Document, Section
from fp8scope.report.pages.caches import caches
from fp8scope.report.pages.experts import experts
from fp8scope.report.pages.exports import exports
from fp8scope.report.pages.hurts import hurts
from fp8scope.report.pages.layers import layers as layers_section
from fp8scope.report.pages.names import Names
from fp8scope.report.pages.overview import overview
from fp8scope.report.pages.planned import planned
from fp8scope.report.pages.provenance import provenance
from fp8scope.report.pages.run import run
from fp8scope.report.pages.tensors import tensors
from fp8scope.report.pages.traffic import traffic
from fp8scope.report.pages.verdict import verdict
from fp8scope.report.rows import profile_summary
from fp8scope.report.snapshot import Snapshot

LAYERS = 12
"""Fused groups and caches of which everything is shown."""


def profile_report(snapshot: Snapshot, *, layers: int = LAYERS) -> Document:
    """The report on all that is known of a profile, with or without a plan, a verdict and
    scores.

    snapshot: the last of `filled`. layers: how many of the worst fused groups and KV caches get a
    part of their own. Raises ValueError for one that is not complete, and DamagedProfile.
    """
    if snapshot.unread:
        raise ValueError(f"the snapshot is not complete: {snapshot.unread}")
    names = Names(snapshot)
    first = verdict(snapshot, names)
    # the order in which anchors are given: a layer's own part, then its group's row, then its rows
    in_detail = layers_section(snapshot, names, layers)
    rest = {
        "hurts": hurts(snapshot, names),
        "planned": planned(snapshot, names),
        "caches": caches(snapshot, names),
        "tensors": tensors(snapshot, names),
    }
    found: list[Section | None] = [
        overview(snapshot),
        rest["hurts"],
        rest["planned"],
        run(snapshot, names),
        in_detail,
        traffic(snapshot, names),
        rest["caches"],
        experts(snapshot),
        rest["tensors"],
        exports(snapshot),
        provenance(snapshot),
    ]
    return Document(
        title=f"FP8 for {printable(str(snapshot.profile.model['name']))}",
        about=_about(snapshot),
        verdict=first,
        sections=[section for section in found if section is not None],
    )


def _about(snapshot: Snapshot) -> str:
    """What was looked at, in one line."""
    found = profile_summary(snapshot.profile)
    kind = found["family"] or found["model"].get("architecture") or "unknown architecture"
    tags = len(found["tags"])
    text = f"{found['sequences']:,} sequences ({found['tokens']:,} tokens) of "
    text += "one use case" if tags == 1 else f"{tags} use cases"
    names = f"names without their first “{snapshot.prefix}”" if snapshot.prefix else ""
    said = [f"{kind}, {found['linears']} linears in {found['groups']} fused groups", text, names]
    return printable("; ".join(part for part in said if part))
