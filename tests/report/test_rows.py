"""What the views show as plain values."""

from __future__ import annotations

import json
import math

import pytest

from fp8scope.analyze.detail import module_detail
from fp8scope.analyze.measures import measure_sites
from fp8scope.analyze.verdict import judge
from fp8scope.profile import layout
from fp8scope.profile.record import Profile
from fp8scope.report.rows import detail_row, finite, profile_summary, site_row, verdict_row
from tests.analyze.sites import measured, of_amax, with_outlier
from tests.analyze.test_measures import silent
from tests.profiles import ATTENTION, BLOCK, Q_INPUT, K, Q, build


@pytest.mark.parametrize("of", [build(), build(full=True, tags=("one",)), silent()])
def test_rows_are_plain_json(of: Profile) -> None:
    measures = measure_sites(of)
    modules = [m for m in (Q, K, ATTENTION, BLOCK) if module_detail(of, m)]
    data = {
        **profile_summary(of),
        "verdict": verdict_row(judge(measures)),
        "rows": [site_row(row) for row in measures],
        "details": [detail_row(d) for module in modules for d in module_detail(of, module)],
    }
    assert json.loads(json.dumps(data, allow_nan=False)) == json.loads(json.dumps(data))
    assert data["tokens"] == int(of.samples["length"].sum())
    assert sum(tag["tokens"] for tag in data["tags"].values()) == data["tokens"]
    assert sum(tag["sequences"] for tag in data["tags"].values()) == data["sequences"]
    assert data["sites"] == data["activation_sites"] + data["weights"] == len(data["rows"])


def test_infinite_decibels_are_null() -> None:
    assert site_row(measured(silent()))["body_sqnr_db"] is None
    assert [finite(x) for x in (math.inf, -math.inf, math.nan, 1.5)] == [None, None, None, 1.5]


def test_the_verdict_names_sites() -> None:
    verdict = verdict_row(judge(measure_sites(with_outlier(1e6))))
    assert verdict["damaged"] == [f"{Q} input"]
    assert verdict["lowest_body_sqnr_db"] < 1
    assert verdict["highest_underflow_rate"] > 0.9
    assert verdict_row(judge(measure_sites(of_amax(("a", "b"), 2, 8))))["least_headroom"] == 0.25
    assert verdict_row(judge([]))["lowest_body_sqnr_db"] is None


def test_a_detail_holds_the_whole_top_lists() -> None:
    of = build(full=True)
    (row,) = [detail_row(d) for d in module_detail(of, Q) if d.measures.site == Q_INPUT]
    assert {name: len(values) for name, values in row["top"].items()} == {
        "first_token": layout.TOP_K,
        "other_tokens": layout.TOP_K,
    }
    best = of.sites[Q_INPUT].best().value[0]
    assert best in [values[0]["value"] for values in row["top"].values()]
    assert list(row["errors"]) == ["tensor", "token", "block of 128 channels"]
    assert row["amax_quantiles"]["token"]["1.0"] == row["amax"]
