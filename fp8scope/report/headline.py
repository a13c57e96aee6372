"""What all of a profile comes to, in one line."""

from __future__ import annotations

import re

from fp8scope.analyze.groups import unexplained
from fp8scope.report.groups import group_sentences, model_sentences
from fp8scope.report.snapshot import Snapshot


def verdict_line(snapshot: Snapshot) -> str:
    """The verdict of `analyze`; until that is known, what the whole model costs."""
    if snapshot.groups is None:
        return next(iter(model_sentences(snapshot.models)), "Reading the profile …")
    groups = list(snapshot.groups.values())
    said = group_sentences(groups, too_low=unexplained(snapshot.models, groups))
    return re.sub(":$", ".", said[0]) if said else "No fused group was reached by the text."
