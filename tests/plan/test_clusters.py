"""Ways to run a cluster: each is consistent, and none is missing, in every family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

import pytest

from fp8scope.core.choices import Choices, Kind, Part, Term, value_folds
from fp8scope.core.gemms import units
from fp8scope.core.schemes import CANDIDATES, DEFAULT_CANDIDATES
from fp8scope.core.structure import Fold, Structure
from fp8scope.plan.clusters import PLAIN, Cluster, Rules, clusters, folds_of
from tests import models
from tests.core.test_gemms import structure

NONE: frozenset[str] = frozenset()
FREE = Rules(DEFAULT_CANDIDATES, NONE, NONE, cache=False)
CACHED = Rules(DEFAULT_CANDIDATES, NONE, NONE, cache=True)


@cache
def scored(name: str, alphas: tuple[float, ...] = (0.25, 0.5)) -> dict[str, list[Term]]:
    """What a scan would score of each group and cache alone."""
    found: dict[str, list[Term]] = {}
    for row in Choices(DEFAULT_CANDIDATES, alphas, parts=True).rows(
        structure(name), units(structure(name))
    ):
        term = row.terms[0]
        if row.kind in (Kind.GROUP, Kind.KV) and term.part is Part.BOTH:
            found.setdefault(term.group, []).append(term)
    return found


def terms(name: str) -> set[Term]:
    return {term for own in scored(name).values() for term in own}


def demands(of: Structure, chosen: Sequence[Term]) -> Iterator[tuple[Fold, float | None]]:
    """What each term says of the folds that it reads or writes; None is that there is none."""
    known = {unit.name: unit for unit in units(of)}
    for term in chosen:
        if term.group not in known:
            fold = value_folds(of).get(term.group)
            if fold is not None:
                yield fold, term.folded
            continue
        weight = CANDIDATES[term.candidate].weight
        assert weight is not None
        for gemm in known[term.group].gemms:
            if gemm.input_fold is not None:
                yield gemm.input_fold, term.alpha
            for fold in gemm.output_folds.values():
                if not weight.takes_row_factors:
                    yield fold, term.alpha if gemm.experts else term.folded


def consistent(of: Structure, chosen: Sequence[Term]) -> bool:
    said = set(demands(of, chosen))
    return len({fold for fold, _ in said}) == len(said)


def of_block(of: Structure, found: Sequence[Cluster], block: int) -> list[Cluster]:
    return [
        cluster
        for cluster in found
        if any(
            member.startswith(f"{of.blocks[block]}.")
            for unit in cluster.units
            for member in unit.gemms[0].members
        )
    ]


@pytest.mark.parametrize("rules", [FREE, CACHED], ids=["", "cached"])
@pytest.mark.parametrize("name", models.CONFIGS)
def test_every_way_is_consistent_and_none_is_missing(name: str, rules: Rules) -> None:
    """Against every combination of what was scored of the units and caches of a cluster."""
    of = structure(name)
    values = value_folds(of)
    found = clusters(of, units(of), terms(name), rules)
    known = {unit.name: unit for unit in units(of)}
    assert sorted(unit.name for cluster in found for unit in cluster.units) == sorted(known)
    caches = [layer for cluster in found for layer in cluster.caches]
    assert sorted(layer.layer for layer in caches) == [layer.layer for layer in of.kv_layers]
    for cluster in (*of_block(of, found, 0), *of_block(of, found, -1)):
        options: list[list[Term | None]] = [
            [None, *scored(name).get(unit.name, ())] for unit in cluster.units
        ]
        if rules.cache:
            options += [
                [term for term in scored(name)[layer.group] if term.candidate == PLAIN]
                for layer in cluster.caches
            ]
        every = {
            chosen
            for picked in product(*options)
            if consistent(of, chosen := tuple(term for term in picked if term))
        }
        assert len(set(cluster.ways)) == len(cluster.ways)
        assert set(cluster.ways) == every
        for way in cluster.ways:
            asked = {fold: alpha for fold, alpha in demands(of, way) if alpha is not None}
            assert folds_of(way, known, values) == asked
            assert set(asked) <= set(cluster.folds)


QKV_O, MLP = {"self_attn.qkv", "self_attn.o_proj"}, {"mlp.gate_up", "mlp.down_proj"}
WHOLE_QKV = {"self_attn.qkv_proj", "self_attn.o_proj"}
Q_LATENT = {"self_attn.q_proj", "self_attn.kv_a_proj_with_mqa"}
LATENT = {"self_attn.kv_b_proj", "self_attn.o_proj"}
EXPERTS = {"mlp.experts", "mlp.shared_experts.gate_up", "mlp.shared_experts.down_proj"}


@pytest.mark.parametrize(
    ("name", "block", "expected"),
    [
        ("llama", 0, [QKV_O, MLP]),
        ("phi3", 0, [WHOLE_QKV, {"mlp.gate_up_proj", "mlp.down_proj"}]),
        ("opt", 0, [{"self_attn.qkv", "self_attn.out_proj"}, {"fc1", "fc2"}]),
        ("gpt2", 0, [{"attn.c_attn", "attn.c_proj"}]),
        ("gpt_neox", 0, [{"attention.query_key_value", "attention.dense"}]),
        ("mixtral", 0, [QKV_O]),
        ("deepseek_v2", 0, [LATENT, MLP]),
        ("deepseek_v3", 1, [LATENT, EXPERTS]),
        ("deepseek_v2_lite", 0, [Q_LATENT, LATENT, MLP]),
        ("stablelm", 0, []),
    ],
)  # fmt: skip
def test_what_is_decided_together(name: str, block: int, expected: list[set[str]]) -> None:
    of = structure(name)
    found = of_block(of, clusters(of, units(of), terms(name), FREE), block)
    prefix = f"{of.blocks[block]}."
    tied = [{unit.name.removeprefix(prefix) for unit in one.units} for one in found]
    assert [names for names in tied if len(names) > 1] == expected


def test_one_alpha_serves_all_that_read_one_norm() -> None:
    """DeepSeek's shared and routed experts; V2-Lite's q and the latent."""
    for name, block in (("deepseek_v2", -1), ("deepseek_v3", -1), ("deepseek_v2_lite", 0)):
        of = structure(name)
        readers = {
            fold: {unit.name for unit in units(of) for g in unit.gemms if g.input_fold == fold}
            for fold in of.folds
            if fold.kind == "norm"
        }
        shared = {fold: names for fold, names in readers.items() if len(names) > 1}
        seen = 0
        for cluster in of_block(of, clusters(of, units(of), terms(name), FREE), block):
            for names in shared.values():
                for way in cluster.ways:
                    mine = [term for term in way if term.group in names]
                    alphas = {term.alpha for term in mine}
                    assert len(alphas) <= 1, way
                    seen += len(mine) > 1 and alphas != {None}
        assert seen > 0


def test_excluded_and_kept_units() -> None:
    of = structure("llama")
    qkv, o = (f"{of.blocks[0]}.self_attn.{part}" for part in ("qkv", "o_proj"))
    rules = Rules(("fp8_tensor", "fp8_smooth"), frozenset({qkv}), frozenset({o}), cache=False)
    cluster = clusters(of, units(of), terms("llama"), rules)[0]
    assert [unit.name for unit in cluster.units] == [qkv, o]
    assert all({term.group for term in way} == {o} for way in cluster.ways)
    assert {way[0].alpha for way in cluster.ways} == {None, 0.25, 0.5}
    without = {term for term in terms("llama") if term.group != o}
    assert clusters(of, units(of), without, rules)[0].ways == ()


def test_smoothing_only_where_it_is_a_candidate() -> None:
    of = structure("llama")
    rules = Rules(("fp8_tensor", "fp8_block"), NONE, NONE, cache=False)
    for cluster in clusters(of, units(of), terms("llama"), rules):
        assert all(term.alpha is None and term.folded is None for w in cluster.ways for term in w)
