"""Everything about one module, against numbers computed here from the invented tensors."""

from __future__ import annotations

import numpy as np
import pytest

from fp8scope.analyze.detail import QUANTILES, SiteDetail, module_detail
from fp8scope.analyze.names import find_module
from fp8scope.core.formats import E4M3, fake_quantize
from fp8scope.core.sites import Role
from fp8scope.errors import BadInput
from fp8scope.profile.record import Profile
from tests.analyze.sites import of_amax, of_values, with_outlier
from tests.profiles import ATTENTION, BLOCK, CHANNELS, K, Q, build, counts, patterns

RNG = np.random.default_rng(3)


def only(of: Profile, module: str, role: Role) -> SiteDetail:
    (found,) = [d for d in module_detail(of, module) if d.measures.site.role is role]
    return found


def test_the_roles_of_a_module_and_of_one_that_shares_its_input() -> None:
    roles = {m: [d.measures.site for d in module_detail(build(), m)] for m in (Q, K)}
    assert [str(site) for site in roles[Q]] == [f"{Q} input", f"{Q} weight"]
    assert [str(site) for site in roles[K]] == [f"{Q} input", f"{K} weight"]
    assert [d.measures.site.role for d in module_detail(build(), BLOCK)] == [Role.RESIDUAL]


def test_tags_are_judged_under_the_one_scale_of_all() -> None:
    large, small = (s * RNG.integers(1, 64, (6, CHANNELS)).astype(np.float32) for s in (65536, 1))
    large[1, 1], small[1, 1] = 64 * 65536, 64
    parts = only(of_values(("large", "small"), large, small), Q, Role.INPUT).tags
    assert [part.name for part in parts] == ["large", "small"]
    assert [part.headroom for part in parts] == [1 / 65536, 65536]
    assert [part.elements for part in parts] == [large.size, small.size]
    scale = E4M3.scale(float(large.max()))
    lost = fake_quantize(small, scale, E4M3).underflowed.sum()
    assert 0 < lost < small.size
    assert parts[1].error.underflowed == lost
    assert parts[0].first_token_amax == large[0].max()
    assert parts[0].other_tokens_amax == large[1:].max()


def test_heads_of_keys() -> None:
    of = build()
    heads = only(of, ATTENTION, Role.K).heads
    amax = of.sites[only(of, ATTENTION, Role.K).measures.site].channel_amax.max(axis=0)
    assert [head.amax for head in heads] == [amax[:4].max(), amax[4:].max()]
    assert only(of, Q, Role.INPUT).heads == []


def test_lines_stand_against_the_median_line() -> None:
    detail = only(with_outlier(100), Q, Role.INPUT)
    (first, second, *_) = detail.lines["channel"]
    assert first.index == 5
    assert first.over_median == pytest.approx(100, rel=0.3)
    assert second.over_median == pytest.approx(1.2, rel=0.2)
    assert second.rms == pytest.approx(1, rel=0.1)
    assert first.rms == pytest.approx(100, rel=0.1)


def test_spreads_end_at_the_amax() -> None:
    detail = only(of_amax(("a", "b"), 8, 4, 2, 16), Q, Role.INPUT)
    assert list(detail.spreads["sequence"]) == [2, 4, 16, 16, 16]
    assert list(detail.spreads["token"]) == [1, 1, 8, 16, 16]
    assert len(detail.spreads["channel"]) == len(QUANTILES)
    weight = only(build(), Q, Role.WEIGHT)
    assert weight.spreads["row"][-1] == weight.spreads["column"][-1] == weight.measures.amax


def test_first_tokens_stand_apart_from_the_others() -> None:
    top = only(of_amax(("a", "b"), 8, 4), Q, Role.INPUT).top
    assert {value.position for value in top["first_token"]} == {0}
    assert [value.value for value in top["other_tokens"]][:3] == [-8, -4, 1]
    assert top["other_tokens"][0].source == "plan.txt"


def test_the_largest_weights_have_a_row_and_a_column() -> None:
    of = build()
    record, detail = of.weights[Q], only(of, Q, Role.WEIGHT)
    best = detail.top_weights[0]
    assert abs(best.value) == record.row_amax[best.row] == record.column_amax[best.column]
    assert detail.lines["row"][0].index == best.row


def test_the_error_of_a_full_record() -> None:
    """One scale per token, put in the record as the recorder does: by binade."""
    of = with_outlier(1)
    site = only(of, Q, Role.INPUT).measures.site
    assert list(only(of, Q, Role.INPUT).errors) == ["tensor"]
    x = RNG.standard_normal((256, CHANNELS)).astype(np.float32)
    x = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    of = of_values(("a",), x)
    scale = (np.abs(x).max(1, keepdims=True) / 448).astype(np.float32)
    quantized = fake_quantize(x, scale, E4M3)
    noise = (x.astype(np.float64) - quantized.values) ** 2
    by_binade = np.stack(
        [
            np.bincount(patterns(x).ravel() >> 7, weights.ravel(), 256)
            for weights in (
                np.ones_like(x),
                quantized.underflowed,
                x.astype(np.float64) ** 2,
                noise,
            )
        ],
        axis=1,
    )
    of.sites[site].error_per_token = by_binade[None].astype(np.float64)
    error = only(of, Q, Role.INPUT).errors["token"]
    sqnr = 10 * np.log10((x.astype(np.float64) ** 2).sum() / noise.sum())
    assert error.sqnr_db == pytest.approx(sqnr)
    assert error.elements == x.size
    # the body ends with the binade that holds the .9 quantile of the non-zero magnitudes
    limit = np.searchsorted(np.cumsum(counts(x)), 0.9 * x.size) >> 7
    body = (patterns(x) >> 7) <= limit
    sqnr = 10 * np.log10((x[body].astype(np.float64) ** 2).sum() / noise[body].sum())
    assert error.body_sqnr_db == pytest.approx(sqnr)
    assert error.body_sqnr_db != error.sqnr_db


def test_full_weights_have_their_own_granularities() -> None:
    errors = only(build(full=True), Q, Role.WEIGHT).errors
    assert list(errors) == ["tensor", "output channel", "block of 128 × 128"]


@pytest.mark.parametrize("name", [Q, Q.removeprefix("model."), "q_proj", "self_attn.q_proj"])
def test_a_module_is_found_by_its_name_or_the_end_of_it(name: str) -> None:
    assert find_module(build(), name) == Q


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("q_porj", f"no module q_porj in the profile → give one of {Q}"),
        ("attn.q_proj", f"no module attn.q_proj in the profile → give one of {Q}"),
        ("…", "there is no module … in the profile → give one of "),
    ],
)
def test_other_names_are_refused_with_what_is_near(name: str, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        find_module(build(), name)
    assert said in str(refused.value)


def test_an_ending_of_two_names_is_refused() -> None:
    of = build()
    other = Q.replace("layers.0", "layers.1")
    of.weights = {**of.weights, other: of.weights[Q]}
    with pytest.raises(BadInput, match="2 modules are called q_proj") as refused:
        find_module(of, "q_proj")
    assert f"{Q}, {other}" in str(refused.value)
