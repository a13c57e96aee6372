"""The cause at a site, from invented tensors: which, with what evidence, and which remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fp8scope.analyze.cause import Cause, Remedy, SiteCause, site_cause
from fp8scope.analyze.thresholds import OUTLIER_RATIO
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import Fold, FusedGroup, KVLayer, Linear, Structure
from fp8scope.profile.record import Profile
from tests.profiles import build, site_record, weight_record

WIDTH, LENGTH = 64, 32
BLOCK = "model.layers.0"
ATTENTION = f"{BLOCK}.self_attn"
Q, K, V, O = (f"{ATTENTION}.{name}_proj" for name in "qkvo")  # noqa: E741
GATE, UP, DOWN = (f"{BLOCK}.mlp.{name}_proj" for name in ("gate", "up", "down"))
NORM = f"{BLOCK}.input_layernorm"
LINEARS = tuple(
    Linear(name, WIDTH, WIDTH, False, False, None, None) for name in (Q, K, V, O, GATE, UP, DOWN)
)
LLAMA = Structure(
    family="llama",
    blocks=(BLOCK,),
    linears=LINEARS,
    groups=(
        FusedGroup(f"{ATTENTION}.qkv", (Q, K, V)),
        FusedGroup(O, (O,)),
        FusedGroup(f"{BLOCK}.mlp.gate_up", (GATE, UP)),
        FusedGroup(DOWN, (DOWN,)),
    ),
    folds=(
        Fold(NORM, "norm", ((0, WIDTH),), (Q, K, V), WIDTH),
        Fold(V, "linear", ((0, WIDTH),), (O,), WIDTH // 4),
        Fold(UP, "linear", ((0, WIDTH),), (DOWN,), WIDTH),
    ),
    kv_layers=(KVLayer(0, ATTENTION, 4, WIDTH // 4),),
)
UNKNOWN = replace(LLAMA, family=None, folds=())
Q_INPUT, DOWN_INPUT = Site(Q, Role.INPUT), Site(DOWN, Role.INPUT)

Values = NDArray[Any]


def bf16(x: NDArray[Any]) -> Values:
    """The values as bf16 holds them, cut off."""
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def bodies(count: int, length: int = LENGTH, seed: int = 0) -> list[Values]:
    """Sequences [length, 64] of a standard normal."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((length, WIDTH)) for _ in range(count)]


def profile(
    site: Site,
    sequences: Sequence[Values],
    *,
    tags: tuple[str, ...] = ("a", "b"),
    structure: Structure = LLAMA,
    texts: Mapping[tuple[int, int], str] | None = None,
) -> Profile:
    """One activation site; sample i has tag i mod tags. `texts` of tokens, by sample, position."""
    values = [(i % len(tags), bf16(x)) for i, x in enumerate(sequences)]
    cache = site.role in (Role.K, Role.V)
    record = site_record(values, len(tags), heads=4 if cache else 0)
    built = build(indices=range(len(sequences)), tags=tags, structure=structure)
    built.sites, built.aliases = {site: record}, {}
    places = dict(texts or {})
    built.excerpts = {
        "sample": np.array([sample for sample, _ in places], np.int32),
        "position": np.array([position for _, position in places], np.int32),
        "token_id": np.zeros(len(places), np.int32),
        "token": np.array([text.encode() for text in places.values()], "S48"),
        "before": np.array([b""] * len(places), "S160"),
        "after": np.array([b""] * len(places), "S160"),
    }
    return built


def with_token(at: Mapping[tuple[int, int], float], channel: int = 5) -> list[Values]:
    """Four bodies with these values of one channel, by sample and position."""
    found = bodies(4)
    for (sample, position), value in at.items():
        found[sample][position, channel] = value
    return found


def with_channel(factor: float, channel: int = 5, count: int = 4) -> list[Values]:
    """Bodies of which one channel is `factor` times as large in every token."""
    found = bodies(count)
    for values in found:
        values[:, channel] *= factor
    return found


def of_weight(matrix: NDArray[Any], module: str = UP, structure: Structure = LLAMA) -> SiteCause:
    built = build(structure=structure, weights={module: weight_record(bf16(matrix))})
    return site_cause(built, Site(module, Role.WEIGHT))


@pytest.mark.parametrize("strength", [1e4, 1e5, 1e6])
def test_a_massive_activation_at_the_first_token(strength: float) -> None:
    texts = {(sample, 0): "<s>" for sample in range(4)}
    sequences = with_token(dict.fromkeys(texts, strength))
    found = site_cause(profile(DOWN_INPUT, sequences, texts=texts), DOWN_INPUT)
    assert (found.cause, found.remedy, found.fold) == (Cause.FIRST_TOKEN, Remedy.PER_TOKEN, None)
    assert found.ratio == pytest.approx(strength, rel=0.05)
    assert 2 < found.usual_ratio < 4  # the largest of 64 normal values
    (line,) = found.lines
    assert line.index == 5
    (token,) = found.tokens
    assert (token.text, token.first, token.sequences) == ("<s>", True, 4)
    assert (found.sequences, found.tags, token.tags) == (4, ("a", "b"), ("a", "b"))


def test_an_outlier_of_one_tag() -> None:
    found = site_cause(
        profile(DOWN_INPUT, with_token({(1, 7): 1e5}), texts={(1, 7): " refund"}), DOWN_INPUT
    )
    assert (found.cause, found.tags, found.sequences) == (Cause.OTHER_TOKEN, ("b",), 1)
    assert [(token.text, token.tags) for token in found.tokens] == [(" refund", ("b",))]


@pytest.mark.parametrize("text", [".", ",", "⏎", " ", "\\t", "\\xa0", "…", "，", "<eos>", "<s>"])
def test_delimiters(text: str) -> None:
    texts = {(0, 3): text, (1, 4): text, (2, 9): " word"}
    found = site_cause(
        profile(DOWN_INPUT, with_token(dict.fromkeys(texts, 1e5)), texts=texts), DOWN_INPUT
    )
    assert found.cause is Cause.DELIMITER
    assert {token.text: token.sequences for token in found.tokens} == {text: 2, " word": 1}


@pytest.mark.parametrize("text", [" word", "7", "漢", "\\d", "a.b", ""])
def test_other_tokens(text: str) -> None:
    texts = {(0, 3): text, (1, 4): text, (2, 9): "."}
    found = site_cause(
        profile(DOWN_INPUT, with_token(dict.fromkeys(texts, 1e5)), texts=texts), DOWN_INPUT
    )
    assert found.cause is Cause.OTHER_TOKEN


def test_first_token_and_delimiter_as_in_llama_2() -> None:
    texts = {(0, 0): "<s>", (1, 0): "<s>", (0, 6): "."}
    sequences = with_token({(0, 0): 1e5, (1, 0): 1e5, (0, 6): 6e4})
    found = site_cause(profile(DOWN_INPUT, sequences, texts=texts), DOWN_INPUT)
    assert found.cause is Cause.FIRST_TOKEN
    assert [(token.text, token.first) for token in found.tokens] == [("<s>", True), (".", False)]


def test_delimiters_may_be_many() -> None:
    """One token in five of one character, as spaces are."""
    texts = {(s, t): " " for s in range(4) for t in range(2, LENGTH, 5)}
    found = site_cause(
        profile(DOWN_INPUT, with_token(dict.fromkeys(texts, 1e5)), texts=texts), DOWN_INPUT
    )
    assert found.cause is Cause.DELIMITER


def test_short_sequences_have_first_tokens_too() -> None:
    sequences = bodies(4, length=2)
    for values in sequences:
        values[0, 5] = 1e5
    assert site_cause(profile(DOWN_INPUT, sequences), DOWN_INPUT).cause is Cause.FIRST_TOKEN


def test_of_sequences_of_one_token_nothing_is_said_of_the_first() -> None:
    sequences = [values[:1] for values in with_channel(1e5, count=40)]
    assert site_cause(profile(DOWN_INPUT, sequences), DOWN_INPUT).cause is Cause.PRODUCT_CHANNEL


@pytest.mark.parametrize("factor", [3e3, 3e4, 3e5])
def test_a_channel_that_is_large_in_every_token(factor: float) -> None:
    built = profile(Q_INPUT, with_channel(factor))
    built.aliases = {Site(K, Role.INPUT): Q_INPUT}
    for site in (Q_INPUT, Site(K, Role.INPUT)):
        found = site_cause(built, site)
        assert (found.site, found.cause, found.remedy) == (site, Cause.FIXED_CHANNEL, Remedy.SMOOTH)
        assert found.fold is not None
        assert found.fold.producer == NORM
        assert [line.index for line in found.lines] == [5]
        assert found.lines[0].over_median == pytest.approx(factor, rel=0.3)
        assert found.usual_ratio == pytest.approx(1.15 * factor, rel=0.2)  # of |x|, normal
        assert (found.tokens, found.tags, found.sequences) == ((), ("a", "b"), 4)


FUSED = replace(
    LLAMA,
    linears=(*LINEARS, Linear("gate_up", WIDTH, 2 * WIDTH, False, False, None, None)),
    groups=(FusedGroup("gate_up", ("gate_up",)), FusedGroup(DOWN, (DOWN,))),
    folds=(Fold("gate_up", "linear", ((WIDTH, 2 * WIDTH),), (DOWN,), WIDTH),),
)
EXPERTS = replace(FUSED, groups=(FusedGroup("experts", ("gate_up", DOWN)),))
PLAIN = replace(LLAMA, groups=tuple(FusedGroup(linear.name, (linear.name,)) for linear in LINEARS))


@pytest.mark.parametrize(
    ("site", "structure", "cause", "remedy", "producer"),
    [
        (DOWN_INPUT, LLAMA, Cause.PRODUCT_CHANNEL, Remedy.SMOOTH, UP),
        (DOWN_INPUT, FUSED, Cause.PRODUCT_CHANNEL, Remedy.SMOOTH, "gate_up"),
        (DOWN_INPUT, EXPERTS, Cause.PRODUCT_CHANNEL, Remedy.SMOOTH, "gate_up"),
        (DOWN_INPUT, PLAIN, Cause.FIXED_CHANNEL, Remedy.SMOOTH, UP),
        (DOWN_INPUT, UNKNOWN, Cause.FIXED_CHANNEL, Remedy.BF16, None),
        (Site(O, Role.INPUT), LLAMA, Cause.FIXED_CHANNEL, Remedy.SMOOTH, V),
        (Site(ATTENTION, Role.V), LLAMA, Cause.FIXED_CHANNEL, Remedy.SMOOTH, V),
        (Site(ATTENTION, Role.K), LLAMA, Cause.FIXED_CHANNEL, Remedy.BF16, None),
    ],
    ids=str,
)
def test_where_a_channel_stands_and_where_it_folds(
    site: Site, structure: Structure, cause: Cause, remedy: Remedy, producer: str | None
) -> None:
    found = site_cause(profile(site, with_channel(1e5), structure=structure), site)
    assert (found.cause, found.remedy) == (cause, remedy)
    assert (found.fold and found.fold.producer) == producer


@pytest.mark.parametrize("role", [Role.K, Role.V])
def test_a_kv_cache_has_no_scales_per_token(role: Role) -> None:
    site = Site(ATTENTION, role)
    found = site_cause(profile(site, with_token({(0, 0): 1e5, (2, 0): 1e5})), site)
    assert (found.cause, found.remedy, found.fold) == (Cause.FIRST_TOKEN, Remedy.BF16, None)


@pytest.mark.parametrize(
    ("token", "channel", "cause", "remedy"),
    [
        (1e6, 1e3, Cause.FIRST_TOKEN, Remedy.PER_TOKEN),
        (1e6, 2e4, Cause.FIRST_TOKEN, Remedy.SMOOTH),  # what scales per token would leave
        (1e5, 5e4, Cause.PRODUCT_CHANNEL, Remedy.SMOOTH),
    ],
)
def test_a_token_and_a_channel_at_once(
    token: float, channel: float, cause: Cause, remedy: Remedy
) -> None:
    sequences = with_channel(channel)
    for values in sequences:
        values[0] = np.random.default_rng(1).standard_normal(WIDTH)
        values[0, 9] = token
    found = site_cause(profile(DOWN_INPUT, sequences), DOWN_INPUT)
    assert (found.cause, found.remedy) == (cause, remedy)
    assert (found.fold is not None) is (remedy is Remedy.SMOOTH)


@pytest.mark.parametrize("strength", [1, 1e2, 1e3])
def test_outliers_that_e4m3_holds_are_plain_rounding(strength: float) -> None:
    for sequences in (with_token({(0, 0): strength}), with_channel(strength / 4)):
        found = site_cause(profile(DOWN_INPUT, sequences), DOWN_INPUT)
        assert found.ratio < OUTLIER_RATIO
        assert found == SiteCause(DOWN_INPUT, Cause.ROUNDING, found.ratio, found.usual_ratio)


def test_what_is_large_everywhere_is_no_outlier() -> None:
    sequences = bodies(4)
    for values in sequences:
        values[np.random.default_rng(1).random(values.shape) < 0.08] *= 1e4
    found = site_cause(profile(DOWN_INPUT, sequences), DOWN_INPUT)
    assert found.ratio > OUTLIER_RATIO
    assert (found.cause, found.remedy, found.lines) == (Cause.ROUNDING, Remedy.NONE, ())


def test_nothing_but_zeros_is_plain_rounding() -> None:
    found = site_cause(profile(DOWN_INPUT, [np.zeros((4, WIDTH))]), DOWN_INPUT)
    assert (found.cause, found.ratio) == (Cause.ROUNDING, 0)


def test_a_weight_row_folds_into_the_consumer() -> None:
    matrix = bodies(1, length=128)[0]
    matrix[36] *= 1e5
    found = of_weight(matrix)
    assert (found.cause, found.remedy, found.axis) == (Cause.WEIGHT_ROW, Remedy.PER_CHANNEL, "row")
    assert [line.index for line in found.lines] == [36]
    assert 2 < found.usual_ratio < 4
    assert found.fold is not None
    assert found.fold.consumers == (DOWN,)
    assert of_weight(matrix, module=GATE).fold is None
    # of stacked experts the rows are numbered through: 36 of 64 is a row of gate in the first
    stack = replace(LLAMA, folds=(Fold(UP, "linear", ((WIDTH // 2, WIDTH),), (DOWN,), WIDTH // 2),))
    rolled = of_weight(np.roll(matrix, 64 - 36 + 10, axis=0), structure=stack)
    assert ([line.index for line in rolled.lines], rolled.fold) == ([74], None)
    assert of_weight(np.roll(matrix, 64, axis=0), structure=stack).fold is not None


def test_a_weight_column_folds_back_into_the_producer() -> None:
    matrix = bodies(1, length=128)[0]
    matrix[:, 7] *= 1e5
    found = of_weight(matrix, module=Q)
    assert (found.cause, found.remedy) == (Cause.WEIGHT_COLUMN, Remedy.UNFOLD)
    assert (found.axis, [line.index for line in found.lines]) == ("column", [7])
    assert found.fold is not None
    assert found.fold.producer == NORM
    assert of_weight(matrix, module=Q, structure=UNKNOWN).remedy is Remedy.BF16


def test_one_large_weight_is_of_its_row() -> None:
    matrix = bodies(1, length=128)[0]
    matrix[3, 7] = 1e5
    found = of_weight(matrix)
    assert (found.cause, [line.index for line in found.lines]) == (Cause.WEIGHT_ROW, [3])


def test_a_weight_without_outlier_is_plain_rounding() -> None:
    assert of_weight(bodies(1)[0]).cause is Cause.ROUNDING
    matrix = bodies(1, length=128)[0]
    matrix[np.random.default_rng(1).random(matrix.shape) < 0.08] *= 1e4
    found = of_weight(matrix)
    assert found.ratio > OUTLIER_RATIO
    assert (found.cause, found.remedy) == (Cause.ROUNDING, Remedy.NONE)


def test_no_more_lines_and_tokens_are_named_than_can_be_read() -> None:
    sequences = bodies(8)
    texts = {(s, 3): f"w{s}" for s in range(8)}
    for values in sequences:
        values[3, 10:18] = 1e5
    found = site_cause(profile(DOWN_INPUT, sequences, texts=texts), DOWN_INPUT)
    assert (len(found.lines), len(found.tokens), found.sequences) == (5, 5, 8)


@given(
    power=st.integers(-30, 30),
    turn=st.integers(0, WIDTH - 1),
    kind=st.sampled_from(["token", "channel", "none"]),
)
def test_neither_the_unit_nor_the_order_of_channels_matters(
    power: int, turn: int, kind: str
) -> None:
    plain = {
        "token": with_token({(0, 0): 1e5, (3, 0): 1e5}),
        "channel": with_channel(1e5),
        "none": bodies(4),
    }[kind]
    other = [np.roll(bf16(x), turn, axis=1) * np.float32(2.0**power) for x in plain]
    before, after = (site_cause(profile(DOWN_INPUT, x), DOWN_INPUT) for x in (plain, other))
    assert (before.cause, before.remedy) == (after.cause, after.remedy)
    assert before.ratio == pytest.approx(after.ratio)
    assert [(line.index + turn) % WIDTH for line in before.lines] == [
        line.index for line in after.lines
    ]
