"""The cause as a sentence and as plain values."""

from __future__ import annotations

import json

import pytest

from fp8scope.analyze.cause import Cause, Remedy, SiteCause
from fp8scope.analyze.cause_words import cause_sentence
from fp8scope.analyze.detail import Line
from fp8scope.analyze.outlying import OutlyingToken
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import Fold
from fp8scope.report.causes import cause_row

UP, DOWN = "model.layers.3.mlp.up_proj", "model.layers.3.mlp.down_proj"
FOLD = Fold(UP, "linear", ((0, 512),), (DOWN,), 512)
LINE = Line(260, 9e4, 5e5, 2e4)
PRODUCT = SiteCause(
    Site(DOWN, Role.INPUT),
    Cause.PRODUCT_CHANNEL,
    ratio=7.1e5,
    usual_ratio=2.1e5,
    remedy=Remedy.SMOOTH,
    fold=FOLD,
    lines=(LINE,),
    tags=("code", "prose"),
    sequences=24,
)
FIRST = SiteCause(
    Site(DOWN, Role.INPUT),
    Cause.FIRST_TOKEN,
    ratio=1e5,
    usual_ratio=31.2,
    remedy=Remedy.PER_TOKEN,
    lines=(LINE, Line(7, 5e4, None, 1e3)),
    tokens=(OutlyingToken("<s>", True, 9e4, 24, ("code", "prose")),),
    tags=("code", "prose"),
    sequences=24,
)
KEYS = Site("model.layers.3.self_attn", Role.K)
SENTENCES = {
    PRODUCT: f"{DOWN} input: one product of gate and up (channel 260) reaches 710,000× the body's "
    f"rms, and one token in four reaches 210,000×; smoothing folded into {UP} takes that away.",
    FIRST: f"{DOWN} input: first tokens («<s>», 24 sequences of code, prose) reach 100,000× the "
    "body's rms in 2 channels (260, 7), and three in four tokens stay under 31.2×; dynamic scales "
    "per token take that away, or BF16 for this layer.",
    SiteCause(
        KEYS,
        Cause.OTHER_TOKEN,
        1e5,
        3,
        Remedy.BF16,
        tokens=(OutlyingToken("", False, 9e4, 1, ("code",)),),
        tags=("code",),
        sequences=1,
    ): "model.layers.3.self_attn k: a few tokens (1 sequence of code) reach 100,000× the body's "
    "rms, and three in four tokens stay under 3.00×; nothing folds into that, which leaves BF16 "
    "for this layer's KV cache.",
    SiteCause(
        Site(UP, Role.WEIGHT), Cause.WEIGHT_ROW, 1e5, 4, Remedy.PER_CHANNEL, FOLD, (LINE,)
    ): f"{UP} weight: one output channel (260) reaches 100,000× the body's rms, and three in four "
    "rows stay under 4.00×; one weight scale per output channel takes that away, or its factor "
    f"folded into {DOWN}.",
    SiteCause(
        Site(DOWN, Role.WEIGHT), Cause.WEIGHT_COLUMN, 1e5, 4, Remedy.UNFOLD, FOLD, (LINE,)
    ): f"{DOWN} weight: one input channel (260) reaches 100,000× the body's rms, and three in four "
    f"columns stay under 4.00×; its factor folded back into {UP} takes that away.",
    SiteCause(
        KEYS, Cause.FIXED_CHANNEL, 1e5, 3e4, Remedy.BF16, lines=(LINE, Line(7, 5e4, 9.0, 1e3))
    ): "model.layers.3.self_attn k: 2 channels (260, 7) reach 100,000× the body's rms, and one "
    "token in four reaches 30,000×; nothing folds into that, which leaves BF16 for this layer's KV "
    "cache.",
    SiteCause(
        KEYS, Cause.ROUNDING, 36
    ): "model.layers.3.self_attn k: plain rounding, for amax is only 36× the body's rms; nothing "
    "to do, or BF16 if its KL does not fit the budget.",
    SiteCause(
        KEYS, Cause.ROUNDING, 6e3, 3e3
    ): "model.layers.3.self_attn k: plain rounding, for 6,000× the body's rms is reached nearly "
    "everywhere; nothing to do, or BF16 if its KL does not fit the budget.",
}


@pytest.mark.parametrize("found", SENTENCES, ids=lambda found: found.cause)
def test_sentences(found: SiteCause) -> None:
    assert cause_sentence(found) == SENTENCES[found]


def test_foreign_text_does_nothing_to_the_terminal() -> None:
    token = OutlyingToken("\x1b[2J\u202e[red]", False, 1.0, 1, ("a\nb",))
    found = SiteCause(
        Site("a\x1bb", Role.INPUT),
        Cause.OTHER_TOKEN,
        1e5,
        3,
        Remedy.PER_TOKEN,
        tokens=(token,),
        tags=("a\nb",),
        sequences=1,
    )
    said = cause_sentence(found)
    assert said.startswith("a·b input: a few tokens («·[2J·[red]», 1 sequence of a·b) reach")


def test_many_tokens_and_tags_are_cut() -> None:
    tokens = tuple(OutlyingToken(t, False, 1.0, 1, ("a",)) for t in (".", ",", ";", ":"))
    found = SiteCause(KEYS, Cause.DELIMITER, 1e5, 3, tokens=tokens, tags=tuple("abcd"), sequences=5)
    assert "delimiters («.» «,» «;» …, 5 sequences of a, b, c, …) reach" in cause_sentence(found)


@pytest.mark.parametrize("found", SENTENCES, ids=lambda found: found.cause)
def test_rows_are_plain_json(found: SiteCause) -> None:
    row = json.loads(json.dumps(cause_row(found), allow_nan=False))
    assert (row["module"], row["role"]) == (found.site.module, str(found.site.role))
    assert (row["cause"], row["remedy"]) == (str(found.cause), str(found.remedy))
    assert [line["index"] for line in row[f"{found.axis}s"]] == [x.index for x in found.lines]
    assert (row["fold"] or {}).get("producer") == (UP if found.fold else None)
    assert row["sentence"] == SENTENCES[found]
