"""Measures of invented records, and their order."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest

from fp8scope.analyze.measures import SiteMeasures, excerpt_at, measure_sites
from fp8scope.core.error import QuantError
from fp8scope.core.sites import Role, Site
from fp8scope.profile import layout
from fp8scope.profile.record import Profile, empty_table
from tests.analyze.sites import measured, of_amax
from tests.profiles import CHANNELS, KEYS, Q_INPUT, Q, build, site_record


@pytest.mark.parametrize(
    ("tags", "amax", "headroom", "tag"),
    [
        (("prose", "code"), (4, 8), 0.5, "code"),
        (("prose", "code"), (64, 2, 8, 16), 0.25, "prose"),
        (("a", "b", "c"), (8, 6, 4), 0.75, "a"),
        (("a", "b"), (8, 8), 1.0, ""),
        (("a", "b", "c"), (8, 8, 4), 1.0, ""),
        (("only",), (4, 8, 2, 1), None, ""),
        (("only",), (4,), None, ""),
    ],
)
def test_headroom(
    tags: tuple[str, ...], amax: tuple[float, ...], headroom: float | None, tag: str
) -> None:
    row = measured(of_amax(tags, *amax))
    assert (row.headroom, row.headroom_tag) == (headroom, tag)


def test_headroom_of_kv_heads_is_that_of_the_whole_site() -> None:
    record = build().sites[KEYS]
    by_tag = np.array([record.magnitudes(tag).amax for tag in (0, 1)])
    row = measured(build(), KEYS)
    assert row.headroom == pytest.approx(by_tag.min() / by_tag.max())


def test_the_worst_token_is_the_largest_value_with_its_text() -> None:
    of = of_amax(("prose", "code"), 4, 8, 2)
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
    assert (worst.source, worst.document, worst.window) == ("plan.txt", 2, 0)
    assert excerpt_at(of, 0, 1) == ("", "", "")


def test_without_excerpts_a_token_has_no_text() -> None:
    of = of_amax(("a", "b"), 4, 8)
    of.excerpts = empty_table(layout.EXCERPT_COLUMNS)
    worst = measured(of).worst
    assert worst is not None
    assert (worst.token, worst.before, worst.after) == ("", "", "")


def test_rows_come_in_order_and_name_who_shares() -> None:
    rows = measure_sites(build())
    assert len(rows) == 5
    assert [row.severity for row in rows] == sorted(row.severity for row in rows)
    assert measured(build()).shared_by == (Q, Q.replace("q_proj", "k_proj"))
    weight = measured(build(), Site(Q, Role.WEIGHT))
    assert (weight.headroom, weight.worst, weight.shared_by) == (None, None, (Q,))
    assert weight.elements == 4 * CHANNELS


def invented(
    body_db: float, underflow: float, headroom: float | None, ratio: float
) -> SiteMeasures:
    error = QuantError(1000, 0, 1000 * underflow, 1, 0, 10 ** (body_db / 10), 1)
    return replace(measured(build()), error=error, headroom=headroom, outlier_ratio=ratio)


def test_severity_sees_what_matters_and_not_the_noise() -> None:
    worst_first = [
        invented(6, 0.6, 1, 5e5),
        invented(28, 0.02, 1, 3e4),
        invented(31.1, 0.05, 1, 9e3),  # the floor: underflow speaks
        invented(32.2, 0.009, 0.5, 4),  # underflow of .9% is noise: headroom speaks
        invented(31.1, 0, 0.79, 900),
        invented(31.9, 0, None, 800),  # nothing speaks but the outlier
        invented(31.1, 0.008, 0.81, 4),
    ]
    assert sorted(worst_first, key=lambda row: row.severity) == worst_first
    assert len({row.severity for row in worst_first}) == len(worst_first)


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
