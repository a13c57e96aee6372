"""Scales of one kind of text on another, and amax predicted from few sequences: real models."""

from __future__ import annotations

import pytest

from fp8scope.analyze.compare import compare_profiles
from fp8scope.analyze.convergence import CLIPS_NOTHING
from fp8scope.analyze.headroom import cast_sites, headroom_matrix, tag_headroom
from fp8scope.profile.record import Profile
from tests.bench import headroom as bench

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not bench.DATA.is_dir(), reason=f"no real models: {bench.DATA}"),
]


@pytest.fixture(scope="module", params=["stories260K", "babyllama361"])
def profile(request: pytest.FixtureRequest) -> Profile:
    return bench.scan(bench.DATA / "models" / request.param, 96, 128, "bfloat16")


def test_code_exceeds_what_prose_asks_for(profile: Profile) -> None:
    found = [row for row in tag_headroom(profile) if row.calibration == "prose"]
    clipped = [row for row in found if row.tags["code"].saturated_sequences]
    assert len(clipped) > 1
    assert all(row.tags["prose"].saturated_sequences == 0 for row in found)
    for site in cast_sites(profile):
        for row in headroom_matrix(profile, site).values():
            for of in row.tags.values():
                assert of.rate_interval[0] <= of.rate <= of.rate_interval[1]
                assert (of.clip > 464 / 448) == (of.saturated_sequences > 0)


def test_prediction_is_better_than_none_and_bounds_hold(profile: Profile) -> None:
    found = bench.predict(profile, 16, 4)
    assert found.predicted.mean() == pytest.approx(found.expected.mean(), abs=0.03)
    assert found.error_octaves < 0.2
    exceeded = (found.shown > CLIPS_NOTHING).mean()
    assert 0.2 < exceeded < 0.75  # a calibration of 16 is too small, and 3/4 is the bound
    assert (found.shown > CLIPS_NOTHING * found.predicted).mean() < exceeded / 1.5


def test_halves_of_one_text_do_not_drift(profile: Profile) -> None:
    assert max(far for far, _ in bench.halves(profile, 48, 20)) < 0.02
    assert compare_profiles(profile, profile).drift == 0
