"""The parts of the layer screen as text: the same words and tables as `analyze --layer`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fp8scope.analyze.cause_words import cause_sentence
from fp8scope.analyze.convergence import Convergence
from fp8scope.analyze.detail import SiteDetail
from fp8scope.analyze.headroom import Headroom
from fp8scope.artefacts.plan import Plan
from fp8scope.core.words import number, percent, printable, times
from fp8scope.report.convergence import convergence_sentences
from fp8scope.report.findings import clipping_sentences, with_error
from fp8scope.report.layer import (
    error_table,
    head_table,
    line_table,
    site_facts,
    spread_table,
    tag_table,
    value_table,
    weight_table,
)
from fp8scope.report.sheet import Sheet, sheet
from fp8scope.report.words import literal
from fp8scope.tui.screen import Browser
from fp8scope.tui.study import Study

READING = Text("reading …", style="italic")
HIGHLIGHT = "bold reverse"


def heading(browser: Browser, module: str, group: str) -> Text:
    """The name; what it costs, what it is planned to run in, and what its outlier is."""
    snapshot = browser.snapshot
    text = literal(snapshot.short(module))
    text.stylize("bold")
    if group not in ("", module):
        text.append_text(literal(f", of {snapshot.short(group)}"))
    if planned := precision(browser, group):
        text.append(f", planned {planned}")
    said = []
    plain = snapshot.scores.get(group, {}).get("fp8_tensor")
    if plain is not None:
        said.append(f"{with_error(plain)} nats per token in fp8_tensor")
    finding = (snapshot.groups or {}).get(group)
    if finding is not None:
        said.append(str(finding.cause.cause).replace("_", " "))
        said += ["a finding"] if finding.harmful else []
    return text.append("\n" + "; ".join(said))


def why(browser: Browser, group: str, study: Study | None) -> RenderableType:
    """Cause and remedy at each site that FP8 casts, and why the plan has it so."""
    snapshot = browser.snapshot
    said = _reason(browser, group)
    if study is not None:
        said += [cause_sentence(cause) for cause in study.findings.causes]
    elif (finding := (snapshot.groups or {}).get(group)) is not None:
        said.append(cause_sentence(finding.cause))
    parts = [Text(sentence) for sentence in said]
    return _apart(parts if study is not None else [*parts, READING])


def spread(detail: SiteDetail) -> RenderableType:
    """What E4M3 does, the outlying channels, and how the amax spreads."""
    lines = [line_table(detail, axis) for axis in detail.lines]
    facts = site_facts(detail.measures)
    return _apart([facts, error_table(detail), *lines, spread_table(detail)])


def values(detail: SiteDetail) -> RenderableType:
    """The largest values with their tokens, or the largest weights."""
    tables: list[RenderableType] = [
        value_table(name, top, HIGHLIGHT) for name, top in detail.top.items() if top
    ]
    if detail.top_weights:
        tables.append(weight_table(detail))
    return _apart(tables or [Text("Nothing but zeros.")])


def traffic(study: Study, detail: SiteDetail) -> RenderableType:
    """The tags side by side, what static scales of one do to another, and has all settled."""
    site = detail.measures.site
    headroom = [row for row in study.findings.headroom if row.site == site]
    settled = [row for row in study.findings.convergence if row.site == site]
    tables: list[RenderableType] = []
    if detail.tags:
        tables.append(tag_table(detail.tags))
    if detail.heads:
        tables.append(head_table(detail.heads))
    if headroom:
        tables.append(_headroom_matrix(headroom))
    tables += map(Text, clipping_sentences(headroom))
    tables += [_convergence_table(row) for row in settled]
    tables += map(Text, convergence_sentences(settled))
    return _apart(tables or [Text("A weight does not depend on the text.")])


def _headroom_matrix(rows: Sequence[Headroom]) -> Sheet:
    tags = list(rows[0].tags)
    return sheet(
        "a static scale from one tag alone, on the traffic of each: sequences clipped, and the "
        "largest value over the limit",
        ("scale from", *map(printable, tags)),
        (
            (
                row.calibration,
                *(f"{percent(of.share)} {times(of.clip)}×" for of in row.tags.values()),
            )
            for row in rows
        ),
    )


def _convergence_table(row: Convergence) -> Sheet:
    return sheet(
        f"convergence: {row.state}; amax with twice the text {times(row.growth)}×",
        ("tag", "sequences", "amax", "gain per doubling", "half would clip the other"),
        (
            (
                tag,
                f"{curve.sequences:,}",
                number(curve.amax),
                number(curve.step),
                percent(curve.half_would_clip),
            )
            for tag, curve in row.curves.items()
        ),
    )


def precision(browser: Browser, group: str) -> str:
    """What a group or cache is planned to run in, as it is now; "" without a plan."""
    if browser.living is not None:
        return browser.living.precision(group) or ""
    return _planned(browser.snapshot.plan, group)[0]


def _planned(plan: Plan | None, group: str) -> tuple[str, str]:
    """Precision and reason of a group, or precision of a cache, in the plan as it was opened."""
    found = next((g for g in plan.groups if g.name == group), None) if plan else None
    if found is not None:
        return found.precision, found.reason
    cache = next((c for c in plan.kv_cache if c.name == group), None) if plan else None
    return (cache.precision, "") if cache else ("", "")


def _reason(browser: Browser, group: str) -> list[str]:
    """The plan's reason; that of a precision that was changed since holds no more."""
    known = browser.living.reasons.get(group) if browser.living else None
    planned, reason = known or _planned(browser.snapshot.plan, group)
    now = precision(browser, group)
    if now == planned:
        return [literal(f"The plan: {reason}.").plain] if reason else []
    return [f"The plan: {now}{', changed here' if planned else ''}."]


def _apart(parts: Sequence[RenderableType]) -> Group:
    """With an empty line between them."""
    spaced = [Text("")] * (2 * len(parts) - 1)
    spaced_out: list[RenderableType] = list(spaced)
    spaced_out[::2] = parts
    return Group(*spaced_out)
