"""Static or per token: tensors of which the right answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fp8scope.analyze.scaling import Need, Scaling, scaling, site_scaling
from fp8scope.core.sites import Role
from fp8scope.profile.record import Profile
from tests.analyze.sites import of_amax, of_values
from tests.profiles import Q_INPUT, RESIDUAL, build

CHANNEL = 5


def gaussian(sequences: int, seed: int = 0) -> NDArray[np.float32]:
    """[sequences, 64 tokens, 64 channels], as bf16 holds it; each reaches 4 exactly."""
    x = np.random.default_rng(seed).standard_normal((sequences, 64, 64)).astype(np.float32)
    x = np.clip(x, -4, 4)
    x[:, 0, 0] = 4
    return exact(x)


def exact(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def verdict(profile: Profile) -> Scaling:
    return site_scaling(profile, Q_INPUT)


def test_a_plain_tensor_is_static() -> None:
    found = verdict(of_values(("a", "b"), *gaussian(20)))
    assert (found.need, found.keep_tag) == (Need.STATIC, "")
    assert found.static_db > 30
    assert found.margin == pytest.approx(1)
    assert found.spread == 1


def test_a_massive_token_wants_a_scale_per_token() -> None:
    x = gaussian(20)
    x[:, 0, CHANNEL] = 2.0**20
    found = verdict(of_values(("a", "b"), *x))
    assert found.need is Need.DYNAMIC
    assert found.static_db < 10
    assert found.token_db > 30


def test_a_massive_channel_wants_more_than_a_scale() -> None:
    x = gaussian(20)
    x[:, :, CHANNEL] = 2.0**20
    found = verdict(of_values(("a", "b"), *x))
    assert found.need is Need.MORE
    assert found.token_db < 10


def test_the_tag_that_loses_its_body_is_named() -> None:
    """`b` is 2^18 times smaller than `a`: the scale of both flushes it to zero."""
    x = gaussian(20)
    x[1::2] *= np.float32(2.0**-18)
    found = verdict(of_values(("a", "b"), *x))
    assert (found.lowest_tag, found.need) == ("b", Need.MORE)
    assert found.static_db < 1


def test_a_slow_growth_wants_a_margin_that_costs_nothing() -> None:
    x = gaussian(40)
    x[:, 0, 0] = exact(np.geomspace(4, 32, 40).astype(np.float32))
    found = verdict(of_values(("a",), *x))
    assert found.need is Need.MARGIN
    assert 1.5 < found.margin < 5
    assert found.margin_db > 30
    assert found.spread == pytest.approx(8**0.5, rel=0.1)


def test_a_margin_that_the_body_does_not_bear() -> None:
    x = gaussian(40)
    x[:, :, CHANNEL] = exact(np.geomspace(4000, 32000, 40).astype(np.float32))[:, None]
    found = verdict(of_values(("a",), *x))
    assert found.static_db >= 25 > found.margin_db
    assert found.need is Need.DYNAMIC


def test_an_amax_that_has_not_settled_wants_a_scale_per_token() -> None:
    x = gaussian(20)
    x[7, 0, 0] = 64
    found = verdict(of_values(("a", "b"), *x))
    assert (found.need, found.keep_tag) == (Need.DYNAMIC, "b")
    assert found.static_db > 30


def test_few_sequences_are_not_known() -> None:
    assert verdict(of_values(("a", "b"), *gaussian(6))).need is Need.UNKNOWN


def test_a_scale_that_hangs_on_one_tag_keeps_it() -> None:
    found = verdict(of_amax(("a", "b"), *[4.0, 8.0] * 10))
    assert (found.need, found.keep_tag) == (Need.STATIC, "b")


def test_the_whole_needs_what_the_worst_needs() -> None:
    profile = of_values(("a", "b"), *gaussian(20))
    assert scaling(profile).need is Need.STATIC
    assert [row.site for row in scaling(build()).rows] == [Q_INPUT]
    massive = gaussian(20)
    massive[:, 0, CHANNEL] = 2.0**20
    other = Q_INPUT._replace(module="model.layers.1.self_attn.q_proj")
    profile.sites = {
        **profile.sites,
        other: of_values(("a", "b"), *massive).sites[Q_INPUT],
    }
    found = scaling(profile)
    assert found.need is Need.DYNAMIC
    assert [row.site for row in found.rows] == [other, Q_INPUT]
    assert [row.site for row in found.of(Need.STATIC)] == [Q_INPUT]
    profile.sites = {RESIDUAL: profile.sites[Q_INPUT]}
    assert scaling(profile).rows == ()
    assert scaling(profile).need is Need.STATIC
    assert all(row.site.role is Role.INPUT for row in found.rows)
