"""What-if: equal to quantizing the tensor itself, and honest where it can only estimate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fp8scope.analyze.scales import Scales
from fp8scope.core.error import quantization_error
from fp8scope.core.formats import E4M3, Format, fake_quantize
from fp8scope.core.gemms import units
from fp8scope.core.histogram import Histogram
from fp8scope.core.magnitude import BF16
from fp8scope.core.sites import Role, Site
from fp8scope.profile.record import Profile
from fp8scope.tui.channels import Channels, Smoothable
from fp8scope.tui.whatif import (
    ALPHAS,
    FARTHEST,
    FORMATS,
    Trial,
    WhatIf,
    scale_of,
    what_if,
)
from tests.analyze.sites import gaussian
from tests.profiles import Q_INPUT, Q, build, counts

Float32 = NDArray[np.float32]
trials = st.builds(
    Trial, st.sampled_from(FORMATS), st.integers(-FARTHEST, FARTHEST), st.sampled_from(ALPHAS)
)
SITE = Site("m", Role.INPUT)


def histogram(values: Float32) -> Histogram:
    return Histogram(BF16, counts(values), int((values == 0).sum()), float(np.abs(values).max()))


def channels(values: Float32) -> Channels:
    """Of [tokens, channels]."""
    energy = (values.astype(np.float64) ** 2).sum(0)
    return Channels(np.abs(values).max(0), energy, np.full(values.shape[1], float(len(values))))


def tried(values: Float32, factors: Float32 | None = None) -> WhatIf:
    smooth = None if factors is None else Smoothable(channels(values), lambda alpha: factors)
    return WhatIf(SITE, histogram(values), smooth)


def outlying(seed: int = 0) -> Float32:
    """Two channels of 64 are far larger, and one is always zero."""
    x = gaussian(256, 64, seed)
    x[:, 5] *= np.float32(2.0**12)
    x[:, 9] *= np.float32(2.0**7)
    x[:, 11] = 0
    return x


@given(trials, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_without_smoothing_every_number_is_that_of_the_tensor_itself(
    trial: Trial, seed: int
) -> None:
    values = outlying(seed)
    trial = replace(trial, alpha=None)
    found = tried(values).outcome(trial)
    step = np.float32(found.scale)
    quantized = fake_quantize(values, step, trial.format)
    assert found.exact
    assert found.amax == np.abs(values).max()
    assert found.rms == pytest.approx(np.sqrt((values.astype(np.float64) ** 2).mean()))
    assert found.saturated == quantized.saturated.mean()
    assert found.error.underflow_rate == quantized.underflowed.mean()
    noise = ((values.astype(np.float64) - quantized.values) ** 2).sum()
    assert found.error.noise == pytest.approx(noise)


def test_the_trial_that_a_person_begins_with_is_what_analyze_shows() -> None:
    values = outlying()
    assert tried(values).outcome(Trial()).error == quantization_error(histogram(values), E4M3)
    assert tried(values).current.error == tried(values).outcome(Trial()).error


@given(trials)
def test_moves_are_undone_by_moves_and_stay_in_their_range(trial: Trial) -> None:
    for eighths in (1, 8):
        if abs(trial.eighths) + eighths <= FARTHEST:
            assert trial.moved(eighths).moved(-eighths) == trial
        assert abs(trial.moved(eighths).eighths) <= FARTHEST
    again = trial
    for _ in FORMATS:
        again = again.next_format()
    assert again == trial
    assert trial.next_alpha(-len(ALPHAS)).alpha is None
    assert trial.next_alpha(len(ALPHAS)).alpha == 1.0


@given(trials, st.floats(0, 2.0**127, width=32))
def test_a_scale_is_a_positive_float32_and_amax_by_max_at_first(trial: Trial, amax: float) -> None:
    scale = scale_of(trial, amax)
    assert 0 < scale < np.inf
    assert scale == np.float32(scale)
    assert scale_of(replace(trial, eighths=0), amax) == trial.format.scale(amax)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_a_value_saturates_just_above_where_that_is_said_to_begin(fmt: Format) -> None:
    limit = np.float32(fmt.saturates_above)
    edge = np.array([limit, np.nextafter(limit, np.float32(np.inf))], np.float32)
    beyond = fake_quantize(edge, np.float32(1), fmt).saturated
    assert beyond[1]
    under = np.array([np.nextafter(limit, np.float32(0))], np.float32)
    assert not fake_quantize(under, np.float32(1), fmt).saturated[0]


@given(st.integers(-80, 79))
def test_a_larger_scale_saturates_less_and_underflows_more(eighths: int) -> None:
    what = tried(outlying())
    one, larger = (what.outcome(Trial(eighths=e)) for e in (eighths, eighths + 1))
    assert larger.saturated <= one.saturated
    assert larger.error.underflow_rate >= one.error.underflow_rate


@given(st.lists(st.integers(-6, 12), min_size=64, max_size=64), st.integers(-16, 16))
@settings(max_examples=40, deadline=None)
def test_smoothing_gives_the_exact_amax_and_rms_and_a_true_bound(
    powers: list[int], eighths: int
) -> None:
    values, factors = outlying(), np.exp2(np.array(powers, np.float32))
    found = tried(values, factors).outcome(Trial(eighths=eighths, alpha=0.5))
    smoothed: Float32 = (values / factors).astype(np.float32)
    assert not found.exact
    assert found.amax == np.abs(smoothed).max()
    assert found.rms == pytest.approx(np.sqrt((smoothed.astype(np.float64) ** 2).mean()))
    clamped = fake_quantize(smoothed, np.float32(found.scale), E4M3).saturated.mean()
    assert clamped <= found.saturated
    assert (found.saturated == 0) == (clamped == 0)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("eighths", [0, 8, 40])
def test_the_estimate_holds_for_gaussian_channels(fmt: Format, eighths: int) -> None:
    values = outlying()
    factors = np.ones(64, np.float32)
    factors[[5, 9]] = 2.0**9, 2.0**5
    found = tried(values, factors).outcome(Trial(fmt, eighths, 0.5))
    truth = quantization_error(histogram(values / factors), fmt, found.scale)
    assert found.error.underflow_rate == pytest.approx(truth.underflow_rate, abs=0.01)
    for mine, true in (
        (found.error.body_sqnr_db, truth.body_sqnr_db),
        (found.error.sqnr_db, truth.sqnr_db),
    ):
        assert mine == pytest.approx(true, abs=0.6)


def test_the_doubt_is_what_the_estimate_makes_of_the_tensor_as_it_is() -> None:
    values = outlying()
    found = tried(values, np.ones(64, np.float32)).outcome(Trial(alpha=0.5))
    assert found.doubt == found.error
    heavy = gaussian(256, 64) ** 5  # no Gaussian, and the doubt shows it
    found = tried(heavy, np.ones(64, np.float32)).outcome(Trial(alpha=0.5))
    assert found.doubt is not None
    assert abs(found.doubt.underflow_rate - tried(heavy).current.error.underflow_rate) > 0.05


def test_zeros_stay_zeros() -> None:
    values = np.maximum(outlying(), 0)
    found = tried(values, np.ones(64, np.float32)).outcome(Trial(alpha=0.5))
    share = found.histogram.zeros / found.histogram.elements
    assert share == pytest.approx((values == 0).mean(), abs=1e-9)


def test_nothing_but_zeros_is_no_trouble() -> None:
    values = np.zeros((4, 8), np.float32)
    what = tried(values, np.ones(8, np.float32))
    for alpha in (None, 0.5):
        found = what.outcome(Trial(eighths=9, alpha=alpha))
        assert (found.amax, found.saturated, found.error.underflow_rate) == (0, 0, 0)


def foldable() -> Profile:
    """With the fold of the norm alone."""
    profile = build()
    structure = replace(profile.structure, folds=profile.structure.folds[:1])
    return replace(profile, structure=structure)


def every_site(profile: Profile) -> list[Site]:
    return [*profile.sites, *(Site(name, Role.WEIGHT) for name in profile.weights)]


def test_what_folds_can_be_smoothed_and_nothing_else() -> None:
    profile = foldable()
    found = {s: what_if(profile, Scales(profile), s).smooth for s in every_site(profile)}
    assert {str(site) for site, smooth in found.items() if smooth} == {
        str(Q_INPUT),
        f"{Q} weight",
        "model.layers.0.self_attn.k_proj weight",
    }


def test_an_input_gets_the_amax_that_a_plan_would_give_it() -> None:
    profile = foldable()
    scales = Scales(profile)
    (unit,) = units(profile.structure)
    for alpha in ALPHAS:
        found = what_if(profile, scales, Q_INPUT).outcome(Trial(alpha=alpha))
        assert found.amax == scales.input_amax(unit.gemms[0], alpha)


def test_smoothing_goes_into_the_columns_of_a_weight() -> None:
    profile = foldable()
    site, scales = Site(Q, Role.WEIGHT), Scales(profile)
    found = what_if(profile, scales, site).outcome(Trial(alpha=0.5))
    (unit,) = units(profile.structure)
    factors = scales.columns(unit.gemms[0], 0.5)
    assert factors is not None
    assert found.amax == (profile.weights[Q].column_amax * factors).max()


def test_where_nothing_folds_alpha_changes_nothing() -> None:
    what = tried(outlying())
    assert what.outcome(Trial(alpha=0.5)).trial == Trial()
    assert what.outcome(Trial(alpha=0.5)).error == what.current.error


def test_the_profile_is_not_read_any_more() -> None:
    profile = foldable()
    what = what_if(profile, Scales(profile), Q_INPUT)
    what.outcome(Trial(alpha=0.25))
    profile.sites = {}
    profile.weights = {}
    assert what.outcome(Trial(alpha=0.75)).amax > 0
