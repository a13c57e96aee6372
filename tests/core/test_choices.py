"""What is scored: every group once in each candidate, under every smoothing that matters."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from fp8scope.core.choices import Choices, Kind, Part, Row, Term, value_folds
from fp8scope.core.gemms import Unit, units
from fp8scope.core.schemes import CANDIDATES, DEFAULT_CANDIDATES, KV_CANDIDATES, Tile
from tests import models
from tests.core.test_gemms import structure

ALPHAS = (0.25, 0.5, 0.75)
EVERYTHING = Choices(tuple(CANDIDATES), ALPHAS, parts=True)


def _rows(name: str, choices: Choices = EVERYTHING) -> list[Row]:
    return choices.rows(structure(name), units(structure(name)))


def _own(rows: list[Row], group: str, candidate: str) -> list[tuple[float | None, float | None]]:
    """(α, folded) of the terms of a group in a candidate, alone and with both sides."""
    terms = [row.terms[0] for row in rows if row.kind is Kind.GROUP]
    return [
        (t.alpha, t.folded)
        for t in terms
        if (t.group, t.candidate, t.part) == (group, candidate, Part.BOTH)
    ]


def _folds(unit: Unit, known: dict[str, Unit]) -> tuple[float, ...]:
    return ALPHAS if any(known[reader].smoothable for reader in unit.readers) else ()


@pytest.mark.parametrize("name", models.CONFIGS)
def test_no_row_stands_twice_and_every_group_is_known(name: str) -> None:
    rows = _rows(name)
    assert max(Counter(rows).values()) == 1
    known = {unit.name for unit in units(structure(name))}
    caches = {layer.group for layer in structure(name).kv_layers}
    for row in rows:
        groups = [term.group for term in row.terms]
        assert len(set(groups)) == len(groups) > 0
        assert set(groups) <= known | caches
        assert (len(row.terms) == 1) == (row.kind in (Kind.GROUP, Kind.KV))
        assert all(term.group in caches for term in row.terms) == (row.kind is Kind.KV)


@pytest.mark.parametrize("name", models.CONFIGS)
def test_every_group_in_every_candidate(name: str) -> None:
    rows = _rows(name)
    known = {unit.name: unit for unit in units(structure(name))}
    for unit in known.values():
        theirs = _folds(unit, known)
        for candidate in CANDIDATES.values():
            got = _own(rows, unit.name, candidate.name)
            assert candidate.weight is not None
            tile, levels = candidate.weight.tile, candidate.weight.scale_format
            matters = tile.rows != 1 or levels is not None  # else the row's scale takes the factor
            want: list[tuple[float | None, float | None]] = []
            if not candidate.smooth:
                want = [(None, None), *((None, a) for a in theirs if matters)]
            elif unit.smoothable:
                want = [(a, None) for a in ALPHAS]
                want += [(a, a) for a in theirs if matters]
            assert Counter(got) == Counter(want), (unit.name, candidate.name)


def test_a_weight_with_scales_per_row_is_scored_once() -> None:
    rows = _rows("llama")
    qkv = "model.layers.0.self_attn.qkv"
    for candidate in ("fp8_token", "int8_weight", "int4_weight"):
        assert _own(rows, qkv, candidate) == [(None, None)]
    assert CANDIDATES["int4_weight"].weight
    assert CANDIDATES["int4_weight"].weight.tile == Tile(1, 128)
    assert len(_own(rows, qkv, "fp8_block")) == len(_own(rows, qkv, "nvfp4")) == 4


@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2"])
def test_each_side_alone_when_asked(name: str) -> None:
    def parts(rows: list[Row]) -> set[Term]:
        return {t for row in rows for t in row.terms if t.part is not Part.BOTH}

    assert not parts(_rows(name, Choices(DEFAULT_CANDIDATES)))
    got = parts(_rows(name))
    whole = [row.terms[0] for row in _rows(name) if row.kind is Kind.GROUP]
    two_sided = [
        t
        for t in whole
        if t.part is Part.BOTH and t.folded is None and CANDIDATES[t.candidate].input
    ]
    assert got == {t._replace(part=p) for t in two_sided for p in (Part.WEIGHT, Part.INPUT)}
    assert not any(t.candidate == "int8_weight" for t in got)


@pytest.mark.parametrize("name", models.KNOWN)
def test_caches(name: str) -> None:
    shape = structure(name)
    folds = value_folds(shape)
    latent = name in models.LATENT
    assert set(folds) == {layer.group for layer in shape.kv_layers}
    for layer in shape.kv_layers:
        terms = [row.terms[0] for row in _rows(name) if row.kind is Kind.KV]
        got = [(t.candidate, t.folded) for t in terms if t.group == layer.group]
        assert got == [(c, f) for c in KV_CANDIDATES for f in (None, *ALPHAS)]
    for group, fold in folds.items():
        layer = next(layer for layer in shape.kv_layers if layer.group == group)
        assert fold.channels == (layer.latent_dim or layer.kv_heads * layer.head_dim)
        assert fold.producer.startswith(layer.attention)
        assert fold.producer.endswith("kv_a_layernorm") == latent  # what is cached is normed
    unsmoothed = [r.terms[0] for r in _rows(name, Choices(("fp8_token",))) if r.kind is Kind.KV]
    assert all(term.folded is None for term in unsmoothed)


def test_a_pair_is_a_smoothed_group_with_what_it_is_folded_into() -> None:
    pairs = [row.terms for row in _rows("llama") if row.kind is Kind.PAIR]
    attn, mlp = "model.layers.0.self_attn", "model.layers.0.mlp"
    first = [terms for terms in pairs if terms[0].group.startswith("model.layers.0")]
    assert first == [
        *(
            terms
            for a in ALPHAS
            for with_o in [
                (
                    Term(f"{attn}.qkv", "fp8_tensor", folded=a),
                    Term(f"{attn}.o_proj", "fp8_smooth", a),
                )
            ]
            for terms in (with_o, (*with_o, Term(f"{attn}.kv_cache", "fp8_tensor", folded=a)))
        ),
        *(
            (
                Term(f"{mlp}.gate_up", "fp8_tensor", folded=a),
                Term(f"{mlp}.down_proj", "fp8_smooth", a),
            )
            for a in ALPHAS
        ),
    ]
    assert not any(row.kind is Kind.PAIR for row in _rows("llama", Choices(("fp8_tensor",))))


@pytest.mark.parametrize("name", models.KNOWN)
def test_the_whole_model_is_every_group_of_the_blocks(name: str) -> None:
    shape = structure(name)
    inside = {unit.name for unit in units(shape) if unit.name.startswith(shape.blocks)}
    known = {unit.name: unit for unit in units(shape)}
    caches = {layer.group for layer in shape.kv_layers}
    whole = [row.terms for row in _rows(name) if row.kind is Kind.MODEL]
    plain = sum(not candidate.smooth for candidate in CANDIDATES.values())
    assert len(whole) == plain + 2
    for terms in whole:
        assert {t.group for t in terms} - caches == inside
    smoothed, with_caches = whole[-2:]
    assert {t.group for t in with_caches} & caches == caches
    for term in smoothed:
        unit = known[term.group]
        assert (term.candidate == "fp8_smooth") == unit.smoothable == (term.alpha == 0.5)
        reader = any(known[name].smoothable for name in unit.readers)
        assert term.folded == (0.5 if reader else None)


def test_an_unknown_architecture_leaves_its_logits_as_they_are() -> None:
    whole = [row.terms for row in _rows(models.UNKNOWN) if row.kind is Kind.MODEL]
    assert whole
    assert not any("lm_head" in term.group for terms in whole for term in terms)
    assert _own(_rows(models.UNKNOWN), "lm_head", "fp8_tensor") == [(None, None)]


@pytest.mark.parametrize("missing", ["o_proj", "qkv", "gate_up", "down_proj"])
def test_groups_that_the_text_never_reached_are_left_out(missing: str) -> None:
    shape = structure("llama")
    found = [unit for unit in units(shape) if not unit.name.endswith(missing)]
    rows = EVERYTHING.rows(shape, found)
    assert not any(term.group.endswith(missing) for row in rows for term in row.terms)
    assert {row.kind for row in rows} == set(Kind)


@pytest.mark.parametrize("name", ["llama", "mixtral", "deepseek_v3"])
def test_rows_survive_json(name: str) -> None:
    rows = _rows(name)
    text = json.dumps([row.to_json() for row in rows])
    back = [Row.from_json(data) for data in json.loads(text)]
    assert back == rows
    assert all(isinstance(term.part, Part) for row in back for term in row.terms)
    assert json.loads(json.dumps(EVERYTHING.to_json()))["alphas"] == list(ALPHAS)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"kind": "group"},
        {"kind": "no such", "terms": []},
        {"kind": "group", "terms": [{"group": "a"}]},
        {"kind": "group", "terms": [{"group": "a", "candidate": "b", "part": "half"}]},
        {"kind": "group", "terms": [{"part": "both", "group": "a", "candidate": "b", "x": 1}]},
    ],
)
def test_broken_json_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Row.from_json(broken)
