"""Measures of invented records, and the rows and tables made of them."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fp8scope.analyze.measures import SiteMeasures, excerpt_at, measure_sites
from fp8scope.core.sites import Role, Site
from fp8scope.profile import layout
from fp8scope.profile.record import Profile, empty_table
from fp8scope.report.rows import finite, profile_summary, site_row, top_rows
from fp8scope.report.text import largest_values, percent, values, worst_sites
from tests.profiles import CHANNELS, KEYS, Q_INPUT, RESIDUAL, Q, build, site_record


def flat(*amax: float) -> list[NDArray[np.float32]]:
    """One sequence per amax: ones, and that value at token 2, channel 3."""
    sequences = []
    for value in amax:
        x = np.ones((4, CHANNELS), np.float32)
        x[2, 3] = -value
        sequences.append(x)
    return sequences


def profile(tags: tuple[str, ...], *amax: float) -> Profile:
    """Sample i has tag i mod tags and the i-th amax."""
    sequences = [(i % len(tags), x) for i, x in enumerate(flat(*amax))]
    record = site_record(sequences, len(tags))
    return build(indices=range(len(amax)), tags=tags, sites={Q_INPUT: record}, aliases={})


def measured(of: Profile, site: Site = Q_INPUT) -> SiteMeasures:
    (row,) = [row for row in measure_sites(of) if row.site == site]
    return row


@pytest.mark.parametrize(
    ("tags", "amax", "headroom", "tag"),
    [
        (("prose", "code"), (4, 8), 0.5, "code"),
        (("prose", "code"), (64, 2, 8, 16), 0.25, "prose"),
        (("a", "b", "c"), (8, 6, 4), 0.75, "a"),
        (("a", "b"), (8, 8), 1.0, "a"),
        (("only",), (4, 8, 2, 1), 0.5, ""),
        (("only",), (4, 4), 1.0, ""),
        (("only",), (4,), None, ""),
    ],
)
def test_headroom(
    tags: tuple[str, ...], amax: tuple[float, ...], headroom: float | None, tag: str
) -> None:
    row = measured(profile(tags, *amax))
    assert (row.headroom, row.headroom_tag) == (headroom, tag)


def test_headroom_of_kv_heads_is_that_of_the_whole_site() -> None:
    record = build().sites[KEYS]
    by_tag = record.amax
    row = measured(build(), KEYS)
    assert row.headroom == pytest.approx(by_tag.min() / by_tag.max())


def test_the_worst_token_is_the_largest_value_with_its_text() -> None:
    of = profile(("prose", "code"), 4, 8, 2)
    of.excerpts = {
        "sample": np.array([0, 1], np.int32),
        "position": np.array([2, 2], np.int32),
        "token_id": np.array([5, 6], np.int32),
        "token": np.array([b"no", "grüß".encode()], "S48"),
        "before": np.array([b"", "vor 漢".encode()[:-1]], "S160"),
        "after": np.array([b"", b"after"], "S160"),
    }
    worst = measured(of).worst
    assert worst is not None
    assert (worst.value, worst.tag, worst.sample, worst.position, worst.channel) == (
        -8.0, "code", 1, 2, 3,
    )  # fmt: skip
    assert (worst.token, worst.before, worst.after) == ("grüß", "vor \ufffd", "after")
    assert excerpt_at(of, 0, 1) == ("", "", "")


def test_without_excerpts_a_token_has_no_text() -> None:
    of = profile(("a", "b"), 4, 8)
    of.excerpts = empty_table(layout.EXCERPT_COLUMNS)
    worst = measured(of).worst
    assert worst is not None
    assert (worst.token, worst.before, worst.after) == ("", "", "")


def test_rows_come_worst_body_first_and_name_who_shares() -> None:
    rows = measure_sites(build())
    assert len(rows) == 5
    order = [row.error.body_sqnr_db for row in rows]
    assert order == sorted(order)
    assert measured(build()).shared_by == (Q, Q.replace("q_proj", "k_proj"))
    weight = measured(build(), Site(Q, Role.WEIGHT))
    assert (weight.headroom, weight.worst, weight.shared_by) == (None, None, (Q,))
    assert weight.elements == 4 * CHANNELS


def silent() -> Profile:
    """Everything zero."""
    zero = [(i % 2, np.zeros((3, CHANNELS), np.float32)) for i in range(4)]
    return build(indices=range(4), sites={Q_INPUT: site_record(zero, 2)}, aliases={})


@pytest.mark.parametrize("of", [build(), build(tags=("one",)), silent()])
def test_no_measure_is_nan(of: Profile) -> None:
    for row in measure_sites(of):
        for thing in (row, row.error):
            numbers = [getattr(thing, field.name) for field in fields(thing)]
            assert not any(isinstance(n, float) and math.isnan(n) for n in numbers)
        assert not math.isnan(row.error.body_sqnr_db)


def test_a_silent_site_has_no_headroom_and_no_worst_token() -> None:
    row = measured(silent())
    assert (row.headroom, row.headroom_tag, row.worst, row.amax) == (None, "", None, 0.0)
    assert top_rows(silent(), Q_INPUT) == []


# ---- rows


@pytest.mark.parametrize("of", [build(), build(full=True, tags=("one",)), silent()])
def test_rows_are_plain_json(of: Profile) -> None:
    rows = [{**site_row(row), "top": top_rows(of, row.site)} for row in measure_sites(of)]
    data = {**profile_summary(of), "rows": rows}
    assert json.loads(json.dumps(data, allow_nan=False)) == json.loads(json.dumps(data))
    assert data["tokens"] == int(of.samples["length"].sum())
    assert sum(tag["tokens"] for tag in data["tags"].values()) == data["tokens"]
    assert sum(tag["sequences"] for tag in data["tags"].values()) == data["sequences"]


def test_infinite_decibels_are_null() -> None:
    assert site_row(measured(silent()))["body_sqnr_db"] is None
    assert [finite(x) for x in (math.inf, -math.inf, math.nan, 1.5)] == [None, None, None, 1.5]


def test_top_rows_are_best_first_and_go_through_aliases() -> None:
    of = build()
    rows = top_rows(of, Site(Q.replace("q_proj", "k_proj"), Role.INPUT))
    assert rows == top_rows(of, Q_INPUT)
    sizes = [abs(row["value"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert len(rows) == layout.TOP_K
    assert rows[0]["token"] == f"t{rows[0]['sample']}.{rows[0]['position']}"
    assert top_rows(of, Site(Q, Role.WEIGHT)) == []
    assert top_rows(of, RESIDUAL) != rows


# ---- tables


def shown(table: Table) -> str:
    console = Console(file=StringIO(), width=200, color_system=None)
    console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def marked_up() -> Profile:
    of = profile(("[red]tag[/red]", "[/nonsense]"), 4, 8)
    table: dict[str, NDArray[Any]] = {
        "sample": np.array([1], np.int32),
        "position": np.array([2], np.int32),
        "token_id": np.array([0], np.int32),
        "token": np.array([b"[red]"], "S48"),
        "before": np.array([b"see [/b]"], "S160"),
        "after": np.array([b"[/] \\["], "S160"),
    }
    return replace(of, excerpts=table)


def test_markup_in_tags_and_tokens_is_shown_as_it_is() -> None:
    of = marked_up()
    text = shown(worst_sites(measure_sites(of), 9))
    for part in ("[/nonsense]", "see [/b][red][/] \\[", "3 worst of 3 sites"):
        assert part in text, part
    text = shown(largest_values(top_rows(of, Q_INPUT), 40))
    for part in ("[/nonsense]", "[red]tag[/red]", "see [/b][red][/] \\["):
        assert part in text, part
    text = shown(values({"a": "[red]", "b": 0.123456789, "c": ["[/x]"]}, "[bold]title"))
    for part in ("[red]", "0.123457", "['[/x]']", "[bold]title"):
        assert part in text, part


def test_the_table_says_what_is_known() -> None:
    text = shown(worst_sites(measure_sites(build()), 2))
    assert "2 worst of 5 sites, E4M3 per tensor" in text
    text = shown(worst_sites(measure_sites(build()), 9))
    assert "(+1 sharing it)" in text
    assert "inf dB" in shown(worst_sites([measured(silent())], 1))


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.0, "0"), (1e-9, "1e-07%"), (0.0123, "1.2%"), (0.5904, "59%"), (0.999, "100%"), (1, "100%")],
)
def test_percent(rate: float, text: str) -> None:
    assert percent(rate) == text
