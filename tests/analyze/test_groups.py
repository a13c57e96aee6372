"""Findings by fused group: by their nats where a profile was scored, else by a damaged tensor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fp8scope.analyze.analysis import analyze_profile
from fp8scope.analyze.cause import Cause
from fp8scope.analyze.groups import group_findings, model_scores
from fp8scope.core.choices import Kind, Part, Row, Term
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import KVLayer
from fp8scope.profile.record import Profile
from tests.analyze.sites import gaussian, of_modules
from tests.profiles import build, scored

A, B, C = (f"model.layers.0.mlp.{name}" for name in ("a", "b", "c"))
OUTLIER = 2.0**20


def plain(rows: int = 64) -> NDArray[np.float32]:
    return gaussian(rows, 64)


def channel() -> NDArray[np.float32]:
    x = plain()
    x[:, 5] *= OUTLIER
    return x


def of(name: str, candidate: str = "fp8_tensor", **term: object) -> Row:
    return Row(Kind.GROUP, (replace_term(Term(name, candidate), **term),))


def replace_term(term: Term, **changes: object) -> Term:
    return Term(**{**term._asdict(), **changes})


def three() -> Profile:
    """A is plain, B has an outlier channel, C is plain."""
    return of_modules({A: plain(), B: channel(), C: plain()})


def test_findings_are_those_whose_kl_is_beyond_doubt_and_the_worst_come_first() -> None:
    profile = scored(three(), {of(A): 0.02, of(B): 0.0004, of(C): 0.004})
    found = group_findings(profile)
    assert [group.group for group in found] == [A, C, B]
    assert [group.group for group in found if group.harmful] == [A]
    assert found[0].members == (A,)
    assert found[0].plain is not None
    assert found[0].plain.kl == pytest.approx(0.02)
    # B's tensor is damaged all the same, and its cause is said
    assert found[2].worst.site == Site(B, Role.INPUT)
    assert found[2].cause.cause is Cause.FIXED_CHANNEL
    assert found[0].cause.cause is Cause.ROUNDING


@pytest.mark.parametrize(
    ("nats", "harmful"),
    [
        ((0.012,) * 4, True),
        ((0.0099,) * 4, False),
        ((0.0, 0.0, 0.0, 0.04), False),  # 0.01 ± 0.01
        ((0.018, 0.022, 0.020, 0.020), True),
    ],
)
def test_a_cost_in_doubt_is_no_finding(nats: tuple[float, ...], harmful: bool) -> None:
    profile = scored(of_modules({A: plain()}), {of(A): nats})
    (found,) = group_findings(profile)
    assert found.harmful is harmful


def test_a_what_if_makes_no_cost_avoidable() -> None:
    """B has an outlier and costs 0.004: three times a what-if is no finding, three times FP8 is."""
    costs = {of(B): 0.004, of(B, "fp8_token"): 0.003, of(B, "int8_weight"): 0.0001}
    (found, *_) = group_findings(scored(three(), costs))
    assert (found.group, found.harmful) == (B, False)
    (found, *_) = group_findings(scored(three(), {**costs, of(B, "fp8_block"): 0.001}))
    assert (found.group, found.harmful) == (B, True)


def test_without_an_error_the_kl_alone_counts() -> None:
    profile = scored(of_modules({A: plain()}), {of(A): 0.02}, samples=[0, 1])
    (found,) = group_findings(profile)
    assert found.plain is not None
    assert np.isnan(found.plain.check.error)
    assert found.harmful


def test_without_sensitivity_a_damaged_tensor_is_a_finding() -> None:
    found = group_findings(three())
    assert [group.group for group in found if group.harmful] == [B]
    assert found[0].group == B
    assert all(group.plain is None and group.candidates == {} for group in found)
    assert model_scores(three()) == {}
    assert analyze_profile(three()).tags == []


def test_a_kl_that_is_not_known_is_no_clean_bill() -> None:
    """Neither forward nor backward stayed finite: the tensors decide."""
    profile = scored(three(), {of(A): np.nan, of(B): np.nan, of(C): 0.001})
    found = {group.group: group for group in group_findings(profile)}
    assert found[B].plain is None
    assert found[B].harmful
    assert not found[A].harmful


def test_candidates_and_pairs_of_a_group() -> None:
    pair = Row(Kind.PAIR, (Term(A, "fp8_tensor", folded=0.5), Term(B, "fp8_smooth", 0.5)))
    nats = {
        **{of(A): 0.001, of(B): 0.03, of(B, "fp8_token"): 0.002},
        **{of(B, "fp8_smooth", alpha=0.5): 0.0003, of(B, part=Part.WEIGHT): 0.9, pair: 0.0009},
    }
    found = {group.group: group for group in group_findings(scored(three(), nats))}
    costs = {name: score.kl for name, score in found[B].candidates.items()}
    pair_of_b = found[B].smoothed
    assert costs == pytest.approx({"fp8_tensor": 0.03, "fp8_token": 0.002, "fp8_smooth": 0.0003})
    assert pair_of_b is not None
    assert pair_of_b.kl == pytest.approx(0.0009)
    assert found[B].unsmoothed == pytest.approx(0.031)
    assert (found[A].smoothed, found[A].unsmoothed) == (None, None)


def test_what_the_text_never_reached_is_no_group() -> None:
    profile = three()
    profile.sites = {site: r for site, r in profile.sites.items() if site.module != C}
    profile.weights = {name: r for name, r in profile.weights.items() if name != A}
    assert [group.group for group in group_findings(profile)] == [B]
    assert group_findings(build(sites={}, aliases={})) == []


def test_the_whole_model_by_candidate() -> None:
    profile = of_modules({A: plain(), B: plain()})
    layer = KVLayer(0, "model.layers.0.self_attn", 2, 4)
    profile.structure = replace(profile.structure, kv_layers=(layer,))

    def whole(*terms: Term) -> Row:
        return Row(Kind.MODEL, terms)

    both = (Term(A, "fp8_tensor"), Term(B, "fp8_tensor"))
    profile = scored(
        profile,
        {
            of(A): 0.1,
            whole(*both): 0.3,
            whole(Term(A, "fp8_token"), Term(B, "fp8_token")): 0.2,
            whole(both[0], Term(B, "fp8_smooth", 0.5)): 0.1,
            whole(*both, Term(layer.group, "fp8_tensor")): 0.4,
        },
    )
    found = {name: score.kl for name, score in model_scores(profile).items()}
    assert found == pytest.approx(
        {"fp8_tensor + kv_cache": 0.4, "fp8_tensor": 0.3, "fp8_token": 0.2, "fp8_smooth": 0.1}
    )
    assert next(iter(model_scores(profile))) == "fp8_tensor + kv_cache"


def test_which_use_case_suffers_and_from_what() -> None:
    profile = of_modules({A: plain(), B: plain()}, tags=("calm", "wild"))
    # samples 0 and 2 are calm
    whole = Row(Kind.MODEL, (Term(A, "fp8_tensor"), Term(B, "fp8_tensor")))
    nats = {of(A): (0.01, 0.1) * 2, of(B): (0.02, 0.03) * 2, whole: (0.03, 0.14) * 2}
    wild, calm = analyze_profile(scored(profile, nats)).tags
    assert (wild.tag, wild.group, calm.tag, calm.group) == ("wild", A, "calm", B)
    assert (wild.whole, wild.nats) == pytest.approx((0.14, 0.1))
    assert (calm.whole, calm.nats) == pytest.approx((0.03, 0.02))
