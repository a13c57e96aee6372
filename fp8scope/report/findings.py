"""The findings about one module, as tables and sentences, and as plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from fp8scope.analyze.cause_words import cause_sentence
from fp8scope.analyze.headroom import Headroom
from fp8scope.analyze.layer import LayerFindings
from fp8scope.analyze.sensitivity import Score
from fp8scope.core.choices import Part, Term
from fp8scope.core.words import nats, site_name
from fp8scope.report.causes import cause_row
from fp8scope.report.convergence import convergence_rows, convergence_sentences
from fp8scope.report.groups import score_row
from fp8scope.report.headroom import headroom_rows, saturation_words
from fp8scope.report.sheet import Sheet, sheet
from fp8scope.report.words import literal

FEWEST_NATS = 1e-5
"""What costs less is drawn as nothing."""


def finding_tables(found: LayerFindings) -> list[RenderableType]:
    """What it costs in each candidate; why; headroom and convergence."""
    tables: list[RenderableType] = []
    if found.scores:
        tables.append(_costs(f"nats per token that {found.group} costs alone", found.scores))
    if found.pairs:
        tables.append(_costs("smoothed, with what it is folded into in FP8", found.pairs))
    said = [cause_sentence(cause) for cause in found.causes]
    said += clipping_sentences(found.headroom) + convergence_sentences(found.convergence)
    return [*tables, Group(*map(Text, said))]


def clipping_sentences(found: Sequence[Headroom]) -> list[str]:
    """Whose scales alone would clip anything, and what."""
    return [
        f"Scales from {literal(row.calibration).plain} alone clip {site_name(row.site)} "
        f"{saturation_words(row.worst, row.worst_tag)}."
        for row in found
        if row.worst.saturated_sequences
    ]


def finding_rows(found: LayerFindings) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "group": found.group or None,
        "scores": [score_row(score) for score in found.scores],
        "pairs": [score_row(score) for score in found.pairs],
        "causes": [cause_row(cause) for cause in found.causes],
        "headroom": headroom_rows(found.headroom),
        "convergence": convergence_rows(found.convergence),
    }


def _costs(title: str, scores: Sequence[Score]) -> Sheet:
    """One row per score; columns that are empty in all of them are left out."""
    columns = {
        "candidate": [candidate_words(score.row.terms[-1]) for score in scores],
        "α": [_alpha(score.row.terms[-1].alpha) for score in scores],
        "reader's α": [_alpha(score.row.terms[-1].folded) for score in scores],
        "nats": [nats(score.estimate.kl) for score in scores],
        "±": [nats(score.estimate.error) for score in scores],
        "unbiased": [f"{nats(s.check.kl)} ± {nats(s.check.error)}" for s in scores],
        "measured": [nats(score.measured.kl) if score.measured else "" for score in scores],
        "worst tag": [_worst_tag(score) for score in scores],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    return sheet(title, tuple(shown), zip(*shown.values(), strict=True))


def candidate_words(term: Term) -> str:
    """`fp8_block`, `fp8_tensor weight alone`."""
    return term.candidate if term.part is Part.BOTH else f"{term.candidate} {term.part} alone"


def term_words(term: Term) -> str:
    """`fp8_smooth α 0.5`, with the reader's α where that divides rows of the weight."""
    alpha = "" if term.alpha is None else f" α {term.alpha:g}"
    folded = "" if term.folded is None else f", its reader α {term.folded:g}"
    return f"{candidate_words(term)}{alpha}{folded}"


def with_error(score: Score) -> str:
    """`0.029 ± 0.0018`, the best known."""
    error = score.nats.error
    return nats(score.kl) + ("" if math.isnan(error) else f" ± {nats(error)}")


def _alpha(alpha: float | None) -> str:
    return "" if alpha is None else f"{alpha:g}"


def _worst_tag(score: Score) -> str:
    tag = score.worst_tag
    return f"{literal(tag).plain} {nats(score.tags[tag].kl)}" if tag else ""
