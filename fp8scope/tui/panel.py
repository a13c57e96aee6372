"""What a trial does to a site, in words: what is exact, what bounded, what estimated."""

from __future__ import annotations

import math

from rich.cells import cell_len
from textual.content import Content

from fp8scope.core.error import QuantError
from fp8scope.core.words import decibel, number, percent, times
from fp8scope.tui.whatif import EIGHTHS, Outcome

KEYS = (
    "[b]\\[ ][/] scale by ⅛ octave  [b]{ }[/] by one  [b]=[/] amax/max  [b]o[/] format  "
    "[b]a A[/] α up, down"
)
NO_FOLD = "Nothing folds into this, so α changes nothing here."
ESTIMATED = (
    "≈ is an estimate: each channel is taken for a Gaussian of its rms. Without smoothing it would "
    "say {body}, {underflow}, where the truth is {true_body}, {true_underflow}. ≤ is a bound; all "
    "else is exact."
)


def scheme_words(outcome: Outcome) -> Content:
    """`E4M3, scale 0.0033 = 1.09 × amax/448 (+0.125 octaves), α 0.5`."""
    trial = outcome.trial
    start = f"amax/{trial.format.max:g}"
    if trial.eighths:
        octaves = f"{trial.eighths / EIGHTHS:+g}".replace("-", "−")
        start = f"{times(2 ** (trial.eighths / EIGHTHS))} × {start} ({octaves} octaves)"
    alpha = "" if trial.alpha is None else f", smoothed at α {trial.alpha:g}"
    name = trial.format.name.upper()
    return Content.assemble((name, "bold"), f", scale {number(outcome.scale)} = {start}{alpha}")


def _range_words(outcome: Outcome) -> Content:
    """Where the tensor ends, and where the format does."""
    fmt, scale = outcome.trial.format, outcome.scale
    steps = (
        f"its normals begin at {number(scale * fmt.smallest_normal)}, its subnormals at "
        f"{number(scale * fmt.smallest_subnormal)}"
        if fmt.mantissa_bits is not None
        else f"its step is {number(scale)}"
    )
    return Content(
        f"amax {number(outcome.amax)}, rms {number(outcome.rms)}; {fmt.name.upper()} ends at "
        f"{number(scale * fmt.max)}, {steps}"
    )


def outcome_table(tried: Outcome, current: Outcome, plain: Outcome, scored: str) -> Content:
    """The trial beside the current scheme; `plain` is the trial without smoothing."""
    about = "" if tried.exact else "≈"
    bound = "≤" if not tried.exact and tried.saturated else ""
    now, new = current.error, tried.error
    columns = [
        ("", "now", "what if", "change"),
        (
            "saturated",
            percent(current.saturated),
            bound + percent(tried.saturated),
            bound + _points(tried.saturated - current.saturated),
        ),
        (
            "underflow",
            percent(now.underflow_rate),
            about + percent(new.underflow_rate),
            about + _points(new.underflow_rate - now.underflow_rate),
        ),
        *(
            (name, decibel(old), about + decibel(found), _changed(about, old, found))
            for name, old, found in (
                ("body SQNR", now.body_sqnr_db, new.body_sqnr_db),
                ("whole SQNR", now.sqnr_db, new.sqnr_db),
            )
        ),
    ]
    widths = [max(map(cell_len, column)) for column in columns]
    lines = []
    for row in range(4):
        cells = [column[row] for column in columns]
        text = cells[0].ljust(widths[0]) + "".join(
            "  " + " " * (width - cell_len(cell)) + cell
            for cell, width in zip(cells[1:], widths[1:], strict=True)
        )
        lines.append(Content.styled(text, ("dim", "", "bold", "")[row]))
    return Content("\n").join([*lines, _range_words(tried), *_notes(tried, plain.error, scored)])


def _notes(tried: Outcome, truth: QuantError, scored: str) -> list[Content]:
    said = []
    if tried.doubt is not None:
        said.append(
            ESTIMATED.format(
                body=decibel(tried.doubt.body_sqnr_db),
                underflow=percent(tried.doubt.underflow_rate),
                true_body=decibel(truth.body_sqnr_db),
                true_underflow=percent(truth.underflow_rate),
            )
        )
    if scored:
        said.append(f"Scored: {scored}.")
    return [Content.styled(sentence, "$text-muted") for sentence in said]


def _points(change: float) -> str:
    """A change of a rate, in percentage points."""
    if change == 0:
        return "±0"
    size = percent(abs(change)).replace("%", " pts")
    return ("+" if change > 0 else "−") + size


def _changed(about: str, old: float, new: float) -> str:
    """A change of an SQNR; nothing where one of them has no noise, or nothing but noise."""
    if old == new:
        return "±0"
    if not (math.isfinite(old) and math.isfinite(new)):
        return "–"
    return f"{about}{new - old:+.1f} dB".replace("-", "−")
