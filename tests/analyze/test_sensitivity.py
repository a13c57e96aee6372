"""Nats per token from sequences of every tag: by hand, by brute force, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp8scope.analyze.forms import SPREADS
from fp8scope.analyze.sensitivity import Scores
from fp8scope.core.choices import Kind, Part, Row, Term
from fp8scope.profile.record import Profile
from fp8scope.profile.sensitivity import stands_for
from tests.profiles import build, invented_sensitivity, scored

GROUP = "model.layers.0.self_attn.qk_proj"
ROW = Row(Kind.GROUP, (Term(GROUP, "fp8_tensor"),))
SPREAD, MEAN = SPREADS[0]


def profile_of(
    tags: Sequence[int],
    lengths: Sequence[int],
    samples: Sequence[int],
    nats: Sequence[float],
    *,
    measured: Sequence[float] | None = None,
) -> Profile:
    """Sequences of these tags and lengths, of which `samples` were scored with these nats."""
    names = tuple(f"t{i}" for i in range(max(tags) + 1))
    profile = build(indices=range(len(tags)), tags=names)
    profile.samples["tag"] = np.array(tags, np.int32)
    profile.samples["length"] = np.array(lengths, np.int32)
    profile = scored(profile, {ROW: 0.0}, samples=samples)
    assert profile.sensitivity is not None
    profile.sensitivity.kl_token[0] = nats
    profile.sensitivity.kl_sequence[0] = nats
    if measured is not None:
        profile.sensitivity.kl_measured[0] = measured
    return profile


def test_tags_weigh_by_their_tokens_in_the_calibration() -> None:
    # tag 0: 3 of nats in 30 tokens scored; tag 1: 8 in 20. In all there are 60 and 20 tokens.
    profile = profile_of([0, 0, 0, 1, 1], [10, 20, 30, 15, 5], [0, 1, 3, 4], [1, 2, 7, 1])
    score = Scores(profile).of(ROW)
    assert score.kl == score.check.kl == pytest.approx((60 * 0.1 + 20 * 0.4) / 80)
    assert {tag: nats.kl for tag, nats in score.tags.items()} == pytest.approx(
        {"t0": 0.1, "t1": 0.4}
    )
    # tag 0 has no residual: 1/10 = 2/20; tag 1: 7 - 6 and 1 - 2, over 20 tokens
    noise = math.sqrt(2 / 1 * 2) / 20
    # 4 sequences' labels make a noise of 2/4 in the ratio of the two forms, which is 1 here
    spread = SPREAD * math.sqrt(1 - SPREAD**2 / (SPREAD**2 + 2 / 4))
    assert score.tags["t0"].error == pytest.approx(spread * 0.1)
    assert score.tags["t1"].error == pytest.approx(math.hypot(noise, spread * 0.4))
    assert score.check.error == pytest.approx(noise / 4)
    assert score.nats.error == pytest.approx(math.hypot(noise / 4, spread * score.kl))


def test_parts_of_a_merge_weigh_by_their_tokens_not_by_what_was_scored() -> None:
    """One tag: 2 of 10 calm sequences scored, and 2 of 2 wild ones of another scan."""
    profile = profile_of([0] * 12, [10] * 12, [0, 1, 10, 11], [1, 1, 10, 10])
    assert profile.sensitivity is not None
    assert Scores(profile).of(ROW).kl == pytest.approx(22 / 40)  # as one scan
    profile.sensitivity.stands_for = np.array([5.0, 5.0, 1.0, 1.0])
    score = Scores(profile).of(ROW)
    assert score.kl == score.tags["t0"].kl == pytest.approx((10 * 0.1 + 2 * 1.0) / 12)


def test_a_tag_that_was_not_scored_is_left_out_of_the_whole() -> None:
    profile = profile_of([0, 0, 1, 1], [10, 20, 500, 500], [0, 1], [1, 2])
    score = Scores(profile).of(ROW)
    assert score.kl == pytest.approx(0.1)
    assert list(score.tags) == ["t0"]


def test_one_sequence_gives_no_error() -> None:
    score = Scores(profile_of([0, 0], [10, 20], [1], [3])).of(ROW)
    assert score.kl == pytest.approx(0.15)
    assert math.isnan(score.check.error)
    assert score.nats.error == pytest.approx(math.hypot(SPREAD, MEAN) * score.kl)


def test_a_tag_with_one_sequence_does_not_hide_the_noise_of_the_others() -> None:
    """Tag 0 spreads by 0.5 of its nats a sequence; tag 1, a quarter of the tokens, has one."""
    score = Scores(profile_of([0, 0, 0, 1], [10, 10, 10, 10], range(4), [1, 2, 3, 8])).of(ROW)
    own = math.sqrt(3 / 2 * 2) / 30
    borrowed = 0.8 * 0.5
    assert score.check.error == pytest.approx(math.hypot(0.75 * own, 0.25 * borrowed))
    assert score.nats.error > score.check.error
    assert score.tags["t1"].error > borrowed


def test_what_is_measured_goes_before_the_estimate_sequence_by_sequence() -> None:
    where = ([0, 0], [10, 10], [0, 1], [1.0, 1.0])
    score = Scores(profile_of(*where, measured=[0.2, 0.4])).of(ROW)
    assert (score.kl, score.estimate.kl) == pytest.approx((0.03, 0.1))
    assert score.measured == score.nats
    assert score.tags["t0"].kl == pytest.approx(0.03)
    score = Scores(profile_of(*where, measured=[0.2, np.nan])).of(ROW)
    assert score.measured is None
    assert score.kl == pytest.approx(1.2 / 20)
    assert score.tags["t0"] == score.nats


def test_without_sensitivity_there_are_no_scores() -> None:
    with pytest.raises(ValueError, match="no sensitivity"):
        Scores(build())
    with pytest.raises(KeyError):
        Scores(scored(build(), {ROW: 1.0})).of(Row(Kind.KV, ROW.terms))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(2, 50), st.floats(0, 5)), min_size=1, max_size=12
    )
)
def test_all_scored_is_the_plain_mean_in_any_order(
    sequences: list[tuple[int, int, float]],
) -> None:
    tags, lengths, nats = map(list, zip(*sequences, strict=True))
    score = Scores(profile_of(tags, lengths, range(len(tags)), nats)).of(ROW)
    assert score.kl == pytest.approx(sum(nats) / sum(lengths))
    order = np.random.default_rng(len(tags)).permutation(len(tags)).tolist()
    again = Scores(profile_of(tags, lengths, order, [nats[i] for i in order])).of(ROW)
    assert again.kl == pytest.approx(score.kl)
    assert again.nats.error == pytest.approx(score.nats.error)


def test_the_standard_error_covers_the_truth_about_as_often_as_it_says() -> None:
    """Draws of 24 sequences of each of two tags; nats grow with the length, and spread."""
    rng = np.random.default_rng(5)
    tags = np.repeat([0, 1], [600, 200])
    lengths = rng.integers(20, 200, len(tags))
    nats = lengths * np.where(tags == 0, 0.01, 0.05) * rng.gamma(2, 0.5, len(tags))
    truth = nats.sum() / lengths.sum()
    errors, hits, draws = [], 0, 600
    found = []
    base = profile_of(tags.tolist(), lengths.tolist(), range(48), [0.0] * 48)
    assert base.sensitivity is not None
    for _ in range(draws):
        samples = np.concatenate([rng.choice(np.flatnonzero(tags == i), 24) for i in (0, 1)])
        base.sensitivity.samples = samples.astype(np.int32)
        base.sensitivity.stands_for = stands_for(
            base.sensitivity.samples, base.samples["tag"], base.samples["length"]
        )
        base.sensitivity.kl_token[0] = base.sensitivity.kl_sequence[0] = nats[samples]
        best = Scores(base).of(ROW).check
        hits += abs(best.kl - truth) < 1.96 * best.error
        errors.append(best.error)
        found.append(best.kl)
    assert 0.91 < hits / draws < 0.98
    assert np.mean(found) == pytest.approx(truth, rel=0.02)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(found), rel=0.1)


# ---- rows by what they are asked for


def alone(
    candidate: str,
    alpha: float | None = None,
    folded: float | None = None,
    part: Part = Part.BOTH,
) -> Row:
    return Row(Kind.GROUP, (Term(GROUP, candidate, alpha, folded, part),))


UP, DOWN = "model.layers.0.mlp.gate_up", "model.layers.0.mlp.down"


def pair(alpha: float, *more: Term) -> Row:
    terms = (Term(UP, "fp8_tensor", folded=alpha), Term(DOWN, "fp8_smooth", alpha), *more)
    return Row(Kind.PAIR, terms)


def test_candidates_of_a_group_at_their_best_alpha() -> None:
    cache = Row(Kind.KV, (Term("model.layers.0.self_attn.kv_cache", "fp8_unit"),))
    nats = {
        alone("fp8_tensor"): 0.3,
        alone("fp8_tensor", part=Part.WEIGHT): 0.1,
        alone("fp8_tensor", part=Part.INPUT): 0.25,
        alone("fp8_tensor", folded=0.5): 0.01,
        alone("fp8_smooth", 0.25): 0.2,
        alone("fp8_smooth", 0.5): 0.05,
        alone("fp8_smooth", 0.75): 0.1,
        cache: 0.4,
        pair(0.25): 0.7,
        pair(0.5): 0.6,
        pair(0.5, cache.terms[0]): 0.5,
        Row(Kind.MODEL, (Term(GROUP, "fp8_tensor"), Term(UP, "fp8_tensor"))): 0.9,
        Row(Kind.MODEL, (Term(GROUP, "fp8_token"), Term(UP, "fp8_token"))): 1.9,
    }
    scores = Scores(scored(build(), nats))
    found = scores.candidates(GROUP)
    assert {name: score.kl for name, score in found.items()} == pytest.approx(
        {"fp8_tensor": 0.3, "fp8_smooth": 0.05}
    )
    assert found["fp8_smooth"].row.terms[0].alpha == 0.5
    parts = {part: score.kl for part, score in scores.parts(GROUP, "fp8_tensor").items()}
    assert parts == pytest.approx({Part.WEIGHT: 0.1, Part.INPUT: 0.25})
    assert scores.parts(GROUP, "fp8_token") == {}
    assert list(scores.candidates("model.layers.0.self_attn.kv_cache")) == ["fp8_unit"]
    assert scores.groups() == [GROUP]
    assert [score.kl for score in scores.pairs(DOWN)] == pytest.approx([0.6, 0.7])
    assert scores.pairs(UP) == []
    assert [score.kl for score in scores.kind(Kind.MODEL)] == pytest.approx([1.9, 0.9])
    assert scores.candidates("nothing") == {}


def test_an_invented_second_pass_is_read_whole() -> None:
    profile = build(sensitivity=invented_sensitivity(range(6)))
    scores = Scores(profile)
    assert all(scores.of(row).kl > 0 for row in scores.rows)
    assert scores.kind(Kind.MODEL)[-1].measured is not None


# ---- sums and resamples


def terms_of(nats: dict[str, list[float]], **more: Any) -> tuple[Scores, list[int]]:
    """Groups in plain FP8 with these nats per token, sequence by sequence."""
    rows = {Row(Kind.GROUP, (Term(name, "fp8_tensor"),)): value for name, value in nats.items()}
    scores = Scores(scored(build(indices=range(6)), rows, **more))
    return scores, list(scores.terms().values())


def test_terms_are_what_was_scored_alone_with_both_sides() -> None:
    cache = Row(Kind.KV, (Term("kv", "fp8_tensor", folded=0.5),))
    nats = {
        alone("fp8_tensor", part=Part.WEIGHT): 0.1,
        alone("fp8_tensor", folded=0.5): 0.2,
        pair(0.5): 0.3,
        cache: 0.4,
        Row(Kind.MODEL, (Term(GROUP, "fp8_tensor"), Term(UP, "fp8_tensor"))): 0.5,
        alone("fp8_smooth", 0.5): 0.6,
    }
    found = Scores(scored(build(), nats)).terms()
    assert found == {
        Term(GROUP, "fp8_tensor", None, 0.5): 1,
        cache.terms[0]: 3,
        Term(GROUP, "fp8_smooth", 0.5): 5,
    }


def test_together_is_the_sum_and_its_noise_that_of_the_same_sequences() -> None:
    """a and b vary against each other, so that their sum does not; c is by itself."""
    wave = np.array([0.01, 0.03, 0.02, 0.04, 0.01, 0.03])
    nats = {"a": wave.tolist(), "b": (0.05 - wave).tolist(), "c": [0.02] * 6}
    scores, rows = terms_of(nats)
    none, tags = scores.together([])
    assert (none.kl, none.error) == (0, 0)
    assert {found.kl for found in tags.values()} == {0}
    for chosen in ([0], [0, 1], [0, 2], [0, 1, 2]):
        found, tags = scores.together([rows[i] for i in chosen])
        kls = [scores.of(scores.rows[rows[i]]).kl for i in chosen]
        assert found.kl == pytest.approx(sum(kls))
        lengths = {"prose": 12, "code": 12}
        assert sum(tags[tag].kl * tokens for tag, tokens in lengths.items()) / 24 == pytest.approx(
            found.kl
        )
    each = np.array([scores.of(scores.rows[row]).kl for row in rows])
    # what the method is off by, row by row; the forms agree, and 6 sequences tell little
    method = SPREADS[0].rows / math.sqrt(1 + SPREADS[0].rows ** 2 * 6 / 2) * each
    assert scores.together(rows[:2])[0].error == pytest.approx(np.linalg.norm(method[:2]))
    assert scores.together(rows[:1])[0].error > 1.05 * method[0]


def test_what_was_measured_has_no_error_but_its_noise() -> None:
    row = Row(Kind.GROUP, (Term("a", "fp8_tensor"),))
    scores, rows = terms_of({"a": [0.1] * 6, "b": [0.2] * 6}, measured=[row])
    assert scores.together(rows[:1])[0].error < scores.together(rows[1:])[0].error / 3


def test_weights_of_sequences_give_the_kl_and_resamples_keep_its_mean() -> None:
    rng = np.random.default_rng(0)
    nats = {name: rng.uniform(0.01, 0.1, 6).tolist() for name in "abc"}
    scores, rows = terms_of(nats)
    expected = [scores.of(scores.rows[row]).kl for row in rows]
    assert (scores.nats @ scores.weights()).tolist() == pytest.approx(expected)
    draws = np.array([scores.nats @ scores.weights(rng) for _ in range(400)])
    assert draws.mean(axis=0) == pytest.approx(np.array(expected), rel=0.03)
    noise = [scores._best.whole(row).error for row in rows]
    # with replacement, of 3 sequences a tag: smaller by √(2/3) than the error, which is unbiased
    assert draws.std(axis=0) == pytest.approx(np.array(noise) * math.sqrt(2 / 3), rel=0.2)
    assert np.all((scores.weights(rng) @ scores._sampled.tokens) == pytest.approx(1))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_numbers_that_are_none_stay_in_their_row(broken: float) -> None:
    scores, rows = terms_of({"a": [broken, *[0.1] * 5], "b": [0.1] * 6})
    assert not math.isfinite(scores.of(scores.rows[0]).kl)
    assert scores.of(scores.rows[1]).kl == pytest.approx(0.1)
    assert scores.together(rows[1:])[0].kl == pytest.approx(0.1)
    assert not math.isfinite(scores.together(rows)[0].kl)
