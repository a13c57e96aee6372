"""What counts as damage and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from fp8scope.analyze import thresholds
from fp8scope.analyze.measures import measure_sites
from fp8scope.analyze.verdict import ORDERS, in_order, judge
from fp8scope.core.formats import E4M3, fake_quantize
from fp8scope.core.sites import Role
from tests.analyze.sites import measured, of_amax, with_outlier
from tests.profiles import Q_INPUT, RESIDUAL, build


@pytest.mark.parametrize("factor", [1, 100, 1000])
def test_outliers_of_the_int8_age_are_no_alarm(factor: float) -> None:
    verdict = judge(measure_sites(with_outlier(factor)))
    assert verdict.damaged == ()
    assert verdict.below_floor == 0


@pytest.mark.parametrize(("factor", "damaged", "below"), [(7e3, 0, 1), (1.5e5, 1, 0)])
def test_a_lost_body_is_damage_though_the_whole_tensor_looks_well(
    factor: float, damaged: int, below: int
) -> None:
    of = with_outlier(factor)
    row, verdict = measured(of), judge(measure_sites(of))
    assert row.error.sqnr_db > 31
    assert (len(verdict.damaged), verdict.below_floor) == (damaged, below)
    assert verdict.lowest == verdict.most_underflow == row
    assert measure_sites(of)[0] == row
    if damaged:
        assert row.outlier_ratio == pytest.approx(5e5, rel=0.2)


def test_what_fp8_does_not_cast_is_not_judged() -> None:
    of = with_outlier(1.5e5)
    of.sites = {RESIDUAL: of.sites[Q_INPUT]}
    verdict = judge(measure_sites(of))
    assert verdict.damaged == ()
    assert verdict.sites == len(of.weights)


def test_scales_that_hang_on_one_tag() -> None:
    low = judge(measure_sites(of_amax(("a", "b"), 8, 4)))
    assert [row.headroom_tag for row in low.one_tag] == ["a"]
    enough = judge(measure_sites(of_amax(("a", "b"), 8, 7)))
    assert enough.one_tag == ()
    assert enough.least_headroom is not None
    one = judge(measure_sites(of_amax(("a",), 8, 4)))
    assert (one.one_tag, one.least_headroom) == ((), None)


def test_nothing_to_judge() -> None:
    verdict = judge([])
    assert (verdict.sites, verdict.lowest, verdict.most_underflow) == (0, None, None)


@pytest.mark.parametrize("by", ORDERS)
def test_orders(by: str) -> None:
    rows = measure_sites(build())
    ordered = in_order(rows, by, (Role.INPUT, Role.K))
    assert {row.site.role for row in ordered} == {Role.INPUT, Role.K}
    assert [ORDERS[by](row) for row in ordered] == sorted(ORDERS[by](row) for row in ordered)


def test_a_site_without_headroom_comes_last_by_headroom() -> None:
    assert in_order(measure_sites(build()), "headroom")[-1].headroom is None


@pytest.mark.parametrize(("amax", "clipped"), [(464, False), (465, True)])
def test_what_exceeds_the_scale_by_little_is_only_rounded(amax: float, clipped: bool) -> None:
    x = np.array([amax], np.float32)
    assert bool(fake_quantize(x, np.float32(1), E4M3).saturated.any()) is clipped
    assert (448 / amax < thresholds.NO_HEADROOM) is clipped
