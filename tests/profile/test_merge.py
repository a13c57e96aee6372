"""Merging: against sums by hand, against the whole, and each refusal."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from fp8scope.errors import CannotMerge
from fp8scope.profile.merge import merge_profiles
from fp8scope.profile.record import Profile, top_tokens
from tests.profiles import KEYS, Q_INPUT, RESIDUAL, build, differences

# what a merge cannot know of the whole: how long it took, and in which order batches ran
OF_THE_RUN = {"environment", "batches/batch", "batches/sample"}


def settle(profile: Profile) -> list[str]:
    """Excerpts in words, without sample numbers."""
    rows = zip(
        profile.samples["digest"][profile.excerpts["sample"]].tolist(),
        profile.excerpts["position"].tolist(),
        profile.excerpts["token"].tolist(),
        strict=True,
    )
    return sorted(map(repr, rows))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "parts", [[(0, 1, 2), (3, 4, 5, 6)], [(1, 4), (0, 6), (2, 3, 5)], [(5, 6), (0, 1, 2, 3, 4)]]
)
def test_shards_of_one_text_equal_the_whole(parts: list[tuple[int, ...]], full: bool) -> None:
    whole = build(indices=range(7), full=full)
    merged = merge_profiles([build(indices=part, full=full) for part in parts])
    wrong = [
        name
        for name in differences(merged, whole)
        if name not in OF_THE_RUN | {"batches_done"}
        # which sample of the shard it was entered into these invented sums
        and not name.endswith("error_per_token")
        and not name.startswith("excerpts")
    ]
    assert wrong == []
    assert settle(merged) == settle(whole)
    assert merged.batches_done == sum((len(part) + 1) // 2 for part in parts)


def test_other_texts_add_as_by_hand() -> None:
    a = build("novel", range(5), tags=("prose", "code"))
    b = build("forum", range(4), tags=("code", "chat"))
    merged = merge_profiles([a, b])
    assert merged.tags == ("prose", "code", "chat")
    for site in (Q_INPUT, RESIDUAL, KEYS):
        x, y, z = a.sites[site], b.sites[site], merged.sites[site]
        for name in ("elements", "zeros", "histogram", "token_amax"):
            one, two = getattr(x, name), getattr(y, name)
            expected = np.stack((one[0], one[1] + two[0], two[1]))
            assert np.array_equal(getattr(z, name), expected), name
        for name in ("amax", "channel_amax"):
            one, two = getattr(x, name), getattr(y, name)
            expected = np.stack((one[0], np.maximum(one[1], two[0]), two[1]))
            assert np.array_equal(getattr(z, name), expected), name
        if site == KEYS:
            for head in range(x.heads):
                of_both = x.head_magnitudes(head) + y.head_magnitudes(head)
                assert np.array_equal(z.head_magnitudes(head).counts, of_both.counts)
                assert z.head_magnitudes(head).zeros == of_both.zeros
        assert np.array_equal(z.channel_sum_squares, x.channel_sum_squares + y.channel_sum_squares)
        for name in ("sequence_amax", "sequence_binades"):
            both = np.concatenate((getattr(x, name), getattr(y, name)))
            assert np.array_equal(getattr(z, name), both)
        for which in (0, 1):
            entries = [*_entries(a, site, 1, which), *_entries(b, site, 0, which)]
            assert sorted(v for v, *_ in _entries(merged, site, 1, which)) == sorted(
                v for v, *_ in sorted(entries)[: len(merged.sites[site].top(1, which))]
            )
    assert merged.samples["tag"].tolist() == [0, 1, 0, 1, 0, 1, 2, 1, 2]
    assert merged.samples["source"].tolist() == [0] * 5 + [1] * 4
    assert len(merged.sources) == 2
    assert merged.batches["batch"].tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4]
    assert merged.batches["sample"].tolist() == list(range(9))
    assert merged.notes == ("a note on novel", "a note on forum")
    assert merged.settings["samples"] == 9
    assert merged.settings["text_digest"].count("+") == 1
    assert merged.complete


def _entries(profile: Profile, site: Any, tag: int, which: int) -> list[tuple[float, bytes, int]]:
    top = profile.sites[site].top(tag, which)
    digests = profile.samples["digest"][top.sample].tolist()
    return sorted(zip((-np.abs(top.value)).tolist(), digests, top.position.tolist(), strict=True))


def test_the_order_of_the_parts_changes_only_the_numbering() -> None:
    parts = [build("a", range(3)), build("b", range(4)), build("c", range(2))]
    views = []
    for order in permutations(parts):
        merged = merge_profiles(order)
        place = np.argsort(merged.samples["digest"])
        view: list[Any] = [sorted(merged.samples["digest"].tolist())]
        for site, record in sorted(merged.sites.items()):
            view += [site, record.elements.tolist(), record.amax.tolist()]
            view += [record.histogram.tobytes(), record.channel_sum_squares.tolist()]
            view += [record.sequence_amax[place].tolist()]
            view += [np.abs(record.top_value).tolist()]
        views.append(view)
    assert all(view == views[0] for view in views)


def test_excerpts_that_no_list_names_are_dropped() -> None:
    parts = [build(name, range(6)) for name in ("a", "b", "c", "d")]
    merged = merge_profiles(parts)
    rows = zip(
        merged.excerpts["sample"].tolist(), merged.excerpts["position"].tolist(), strict=True
    )
    assert set(rows) == top_tokens(merged.sites.values())
    assert len(merged.excerpts["sample"]) < sum(len(part.excerpts["sample"]) for part in parts)
    # each excerpt is still that of its own token
    for sample, position, token in zip(
        *(merged.excerpts[name].tolist() for name in ("sample", "position", "token")), strict=True
    ):
        assert token == f"t{merged.samples['index'][sample]}.{position}".encode()


def test_the_parts_stay_as_they_were() -> None:
    a, b = build("a"), build("b")
    merge_profiles([a, b])
    assert differences(a, build("a")) == []
    assert differences(b, build("b")) == []


def test_a_log_that_has_grown_holds_the_old_one() -> None:
    monday, week = build("monday", range(4)), build("week", range(8))
    week.samples["digest"][:3] = monday.samples["digest"][:3]
    with pytest.raises(CannotMerge, match="3 sequences are in both"):
        merge_profiles([monday, week])
    week.samples["digest"][2] = b"0123456789abcdef"
    assert "2 sequences are in two parts and count twice" in merge_profiles([monday, week]).notes


def test_one_document_cut_to_two_lengths_is_refused() -> None:
    short = build("novel", range(3), settings=settings(seq_len=64))
    long = build("novel", range(3, 6), settings=settings(seq_len=128))
    long.samples["document"] = short.samples["document"].copy()
    with pytest.raises(CannotMerge, match="into sequences of 64 and 128 tokens"):
        merge_profiles([short, long])


def settings(**more: int) -> dict[str, Any]:
    return {**build().settings, **more}


def _changed(name: str, **values: str) -> dict[str, Any]:
    return {name: getattr(build(), name) | values}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (_changed("model", weights_hash="0"), "differ in weights: aaa"),
        (_changed("model", config_hash="0"), "differ in config"),
        (_changed("settings", dtype="float16"), "differ in dtype: bfloat16 and float16"),
        (_changed("settings", record="full"), "differ in --record"),
        ({"aliases": {}}, "differ in shared inputs"),
        ({"sites": {Q_INPUT: build().sites[Q_INPUT]}}, "differ in recorded sites"),
    ],
)
def test_another_model_is_refused(other: dict[str, Any], message: str) -> None:
    with pytest.raises(CannotMerge, match=message):
        merge_profiles([build("a"), build("b", **other)])


def test_a_sequence_that_counts_twice_is_refused() -> None:
    with pytest.raises(CannotMerge, match="2 sequences are in both"):
        merge_profiles([build(indices=range(4)), build(indices=range(2, 6))])
    with pytest.raises(CannotMerge, match="would count twice"):
        merge_profiles([build("a"), build("b"), build("a")])


def test_the_same_words_from_two_places_are_traffic() -> None:
    monday, tuesday = build("monday"), build("tuesday")
    tuesday.samples["digest"][:2] = monday.samples["digest"][:2]
    merged = merge_profiles([monday, tuesday])
    assert len(merged.samples["index"]) == 2 * len(monday.samples["index"])


def test_settings_that_differ_are_left_out() -> None:
    a, b = build("a", settings=settings(seq_len=64)), build("b", settings=settings(seq_len=128))
    assert "seq_len" not in merge_profiles([a, b]).settings
    assert merge_profiles([a, b]).settings["dtype"] == "bfloat16"


@pytest.mark.parametrize("count", [0, 1])
def test_one_profile_is_nothing_to_merge(count: int) -> None:
    with pytest.raises(CannotMerge):
        merge_profiles([build()] * count)
