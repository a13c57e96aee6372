"""The two forms of a KL reconciled: by kind, and by row as far as the noise allows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fp8scope.analyze.forms import SPREADS, Forms, reconcile
from fp8scope.core.choices import Kind, Row, Term
from fp8scope.runtime.structure import discover
from tests import models

ROWS = 300
LLAMA = discover(models.build("llama"))


def forms(true: float, noise: NDArray[np.float64]) -> Forms:
    """Rows whose sequences' sums say `true` times what their tokens say."""
    rows = [
        Row(Kind.GROUP, (Term("model.layers.0.mlp.gate_up", "fp8_tensor", alpha=i),))
        for i in range(len(noise))
    ]
    token = np.full(noise.shape, 0.1)
    return reconcile(rows, token, token * true * noise, LLAMA)


WRITERS = ("self_attn.qkv", "self_attn.kv_cache")
OTHERS = ("self_attn.o_proj", "mlp.gate_up", "mlp.down_proj")


def test_what_writes_the_cache_is_a_kind_of_its_own() -> None:
    names = [f"model.layers.0.{name}" for name in (*WRITERS, *OTHERS)]
    rows = [Row(Kind.GROUP, (Term(name, "fp8_tensor"),)) for name in names]
    rows.append(Row(Kind.PAIR, (Term(names[0], "fp8_tensor"), Term(names[2], "fp8_smooth", 0.5))))
    ones = np.ones((len(rows), 8))
    found = reconcile(rows, ones, ones, LLAMA)
    assert found.cached.tolist() == [True, True, False, False, False, True]
    assert found.ratio.tolist() == [1] * 6


@pytest.mark.parametrize("name", models.KNOWN)
def test_every_family_has_groups_of_both_kinds(name: str) -> None:
    structure = discover(models.build(name))
    rows = [Row(Kind.GROUP, (Term(group.name, "fp8_tensor"),)) for group in structure.groups]
    ones = np.ones((len(rows), 2))
    cached = reconcile(rows, ones, ones, structure).cached
    found = {
        group.name for group, is_cached in zip(structure.groups, cached, strict=True) if is_cached
    }
    values = {c for fold in structure.folds if fold.kind == "linear" for c in fold.consumers}
    writers = [group for group in structure.groups if group.name in found]
    assert writers
    assert all("attn" in name or "attention" in name for name in found)
    assert not values.intersection(member for group in writers for member in group.members)


@pytest.mark.parametrize(("sequences", "least", "most"), [(100, 1.2, 1.35), (2, 1.0, 1.15)])
def test_the_mean_ratio_counts_as_far_as_it_is_known(
    sequences: int, least: float, most: float
) -> None:
    """20 rows whose sequences' sums say 1.3 times what their tokens say, with noise of χ²₁."""
    rng = np.random.default_rng(3)
    noise = rng.chisquare(1, (20, sequences)) if sequences > 2 else np.array([[4.0, 0.1]] * 20)
    found = forms(1.3, noise)
    assert least < found.ratio[0] < most


@pytest.mark.parametrize("kind", [0, 1])
def test_a_rows_own_ratio_counts_as_far_as_it_is_known(kind: int) -> None:
    """Ratios spread as those of the kind do; sampled labels make a noise of 14%."""
    spread, rng = SPREADS[kind].rows, np.random.default_rng(4)
    name = ("mlp.gate_up", "self_attn.qkv")[kind]
    rows = [
        Row(Kind.GROUP, (Term(f"model.layers.0.{name}", "fp8_tensor", alpha=i),))
        for i in range(ROWS)
    ]
    true = 1 + spread * rng.standard_normal(ROWS)
    token = np.full((ROWS, 100), 0.1)
    found = reconcile(rows, token, token * true[:, None] * rng.chisquare(1, token.shape), LLAMA)
    off = found.ratio / true - 1
    noise = np.sqrt(2 / 100)
    assert off.std() == pytest.approx(spread * noise / np.hypot(spread, noise), rel=0.15)
    assert found.spread.mean() == pytest.approx(off.std(), rel=0.15)


def test_the_doubt_of_a_sum_is_less_than_the_sum_of_doubts_but_for_the_mean() -> None:
    rng = np.random.default_rng(5)
    found = forms(1.0, rng.chisquare(1, (50, 100)))
    kl = np.ones(50)
    mean = found.mean_error[0]
    assert found.doubt(range(50), kl) == pytest.approx(
        np.hypot(mean * 50, np.linalg.norm(found.spread))
    )
    assert found.doubt([0], kl[:1]) == pytest.approx(np.hypot(mean, found.spread[0]))


def test_what_tells_nothing_changes_nothing() -> None:
    """Rows of zeros, of infinities, and a single sequence."""
    rows = [Row(Kind.GROUP, (Term(f"g{i}", "fp8_tensor"),)) for i in range(3)]
    token = np.array([[0.0, 0.0], [np.inf, 1.0], [1.0, 1.0]])
    found = reconcile(rows, token, token, LLAMA)
    assert found.ratio.tolist() == [1, 1, 1]
    alone = reconcile(rows[2:], np.ones((1, 1)), np.full((1, 1), 5.0), LLAMA)
    assert (alone.ratio[0], alone.spread[0]) == (1, SPREADS[0].rows)
    assert alone.mean_error[0] == SPREADS[0].mean
