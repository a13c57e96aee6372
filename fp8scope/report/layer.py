"""The tables of `analyze --layer`: everything about one site, for a person."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import PurePath

from rich.console import Group, RenderableType
from rich.text import Text

from fp8scope.analyze.detail import QUANTILES, Part, SiteDetail
from fp8scope.analyze.measures import SiteMeasures, TopValue
from fp8scope.core.sites import Role
from fp8scope.core.words import decibel, number, percent, times
from fp8scope.profile.layout import TOP_K
from fp8scope.report.document.blocks import Excerpt
from fp8scope.report.sheet import Sheet, sheet
from fp8scope.report.words import literal

TOP_ROWS = 10
AXES = {"channel": "channel", "row": "row (output channel)", "column": "column (input channel)"}


def site_tables(detail: SiteDetail) -> list[RenderableType]:
    """Heading and tables of one site, in the order of reading."""
    heading = literal(str(detail.measures.site))
    heading.stylize("bold")
    tables = [error_table(detail)]
    if detail.tags:
        tables.append(tag_table(detail.tags))
    if detail.heads:
        tables.append(head_table(detail.heads))
    tables.append(spread_table(detail))
    tables += [line_table(detail, axis) for axis in detail.lines]
    tables += [value_table(name, top) for name, top in detail.top.items() if top]
    if detail.top_weights:
        tables.append(weight_table(detail))
    return [Group(heading, site_facts(detail.measures)), *tables]


def site_facts(row: SiteMeasures) -> Text:
    """What a site is, in one line, and who else reads it, in another."""
    facts = Text(
        f"{row.elements:,} elements, amax {number(row.amax)}, "
        f"rms of the body {number(row.rms_body)}, amax/rms {times(row.outlier_ratio)}"
    )
    others = [name for name in row.shared_by if name != row.site.module]
    if others:
        facts.append("\nalso read by ").append_text(literal(", ".join(others)))
    return facts


def error_table(detail: SiteDetail) -> Sheet:
    """What E4M3 does to the site, by granularity of the scale."""
    static = "" if detail.measures.site.role is Role.WEIGHT else ", static"
    return sheet(
        "error of E4M3",
        ("one scale per", "body SQNR", "whole SQNR", "underflow"),
        (
            (
                name + (static if name == "tensor" else ""),
                decibel(error.body_sqnr_db),
                decibel(error.sqnr_db),
                percent(error.underflow_rate),
            )
            for name, error in detail.errors.items()
        ),
    )


def tag_table(parts: Sequence[Part]) -> Sheet:
    """The tags of a site, side by side."""
    return sheet(
        "by tag, under the one scale of all tags",
        ("tag", "elements", "amax", "first token", "others", "body SQNR", "headroom"),
        (
            (
                part.name,
                f"{part.elements:,}",
                number(part.amax),
                number(part.first_token_amax or 0),
                number(part.other_tokens_amax or 0),
                decibel(part.error.body_sqnr_db),
                _ratio(part.headroom),
            )
            for part in parts
        ),
    )


def head_table(parts: Sequence[Part]) -> Sheet:
    """The KV heads of a site, side by side."""
    return sheet(
        "by KV head, under the one scale of all heads",
        ("head", "amax", "amax/rms", "body SQNR", "underflow"),
        (
            (
                part.name,
                number(part.amax),
                times(part.outlier_ratio),
                decibel(part.error.body_sqnr_db),
                percent(part.error.underflow_rate),
            )
            for part in parts
        ),
    )


def spread_table(detail: SiteDetail) -> Sheet:
    """Quantiles of the amax of each token, sequence, channel, row and column."""
    quantiles = [{0.0: "least", 0.5: "median", 1.0: "most"}.get(q, f"{q:g}") for q in QUANTILES]
    return sheet(
        "how the amax spreads (quantiles)",
        ("amax of each", *quantiles),
        ((AXES.get(of, of), *map(number, values)) for of, values in detail.spreads.items()),
    )


def line_table(detail: SiteDetail, axis: str) -> Sheet:
    """The largest channels, rows or columns."""
    return sheet(
        f"largest {axis}s, against the median {axis}",
        (axis, "amax", "× median", "rms"),
        (
            (str(line.index), number(line.amax), _ratio(line.over_median), number(line.rms))
            for line in detail.lines[axis]
        ),
    )


def value_table(name: str, top: Sequence[TopValue], highlight: str = "bold") -> Sheet:
    """One row for what repeats: the same value of the same channel at the same kind of token.

    `highlight`: how the token looks in its text.
    """
    rows = []
    for _, group in groupby(top, lambda v: (v.value, v.channel, v.token)):
        same = list(group)
        last = same[-1] is top[-1] and len(top) == TOP_K
        repeated = f"{'≥' if last else '×'}{len(same)}" if len(same) > 1 else ""
        first = same[0]
        where = f"{first.tag} {PurePath(first.source).name}:{first.document}"
        rows.append(
            (
                number(first.value),
                repeated,
                str(first.channel),
                str(first.position),
                where,
                Excerpt(first.before[-40:], first.token, first.after[:30]),
            )
        )
    return sheet(
        f"largest values, {name.replace('_', ' ')}",
        ("value", "", "channel", "token", "tag, file:document", "text"),
        rows[:TOP_ROWS],
        highlight,
    )


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{times(value)}×"


def weight_table(detail: SiteDetail) -> Sheet:
    """The largest weights."""
    return sheet(
        "largest weights",
        ("value", "row", "column"),
        (
            (number(weight.value), str(weight.row), str(weight.column))
            for weight in detail.top_weights[:TOP_ROWS]
        ),
    )
