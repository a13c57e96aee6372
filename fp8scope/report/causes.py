"""The cause at a site as plain values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fp8scope.analyze.cause import SiteCause
from fp8scope.analyze.cause_words import cause_sentence


def cause_row(found: SiteCause) -> dict[str, Any]:
    """A cause as plain values; `fold` is None where nothing folds."""
    return {
        "module": found.site.module,
        "role": str(found.site.role),
        "cause": str(found.cause),
        "amax_over_rms_body": found.ratio,
        "usual_over_rms_body": found.usual_ratio,
        "remedy": str(found.remedy),
        "fold": asdict(found.fold) if found.fold else None,
        found.axis + "s": [vars(line) for line in found.lines],
        "tokens": [vars(token) for token in found.tokens],
        "tags": list(found.tags),
        "sequences": found.sequences,
        "sentence": cause_sentence(found),
    }
