"""Structure through JSON and back, folds, and how a site is written."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import Fold, Structure
from tests.profiles import structure


def test_json_round_trip_is_the_identity() -> None:
    plain = structure()
    assert Structure.from_json(json.loads(json.dumps(plain.to_json()))) == plain
    assert Structure.from_json(plain.to_json()) == plain
    unknown = replace(plain, family=None, groups=(), folds=(), kv_layers=())
    assert Structure.from_json(json.loads(json.dumps(unknown.to_json()))) == unknown


def test_a_field_that_is_missing_or_unknown_is_an_error() -> None:
    data = structure().to_json()
    with pytest.raises(KeyError):
        Structure.from_json({name: v for name, v in data.items() if name != "folds"})
    data["linears"][0]["surprise"] = 1
    with pytest.raises(TypeError):
        Structure.from_json(data)


def test_a_gqa_fold_maps_each_query_head_to_its_kv_head() -> None:
    fold = Fold("v_proj", "linear", ((4, 8),), ("o_proj",), block=2, repeat=3)
    assert fold.channels == 4
    assert list(fold.producer_rows()) == [4, 5, 6, 7]
    assert fold.consumer_channels() == [0, 1] * 3 + [2, 3] * 3


@given(block=st.integers(1, 5), heads=st.integers(1, 4), repeat=st.integers(1, 3))
def test_consumer_columns_follow_the_stated_rule(block: int, heads: int, repeat: int) -> None:
    fold = Fold("p", "linear", ((0, heads * block),), ("c",), block, repeat)
    columns = fold.consumer_channels()
    for h in range(heads):
        for d in range(block):
            for r in range(repeat):
                assert columns[(h * repeat + r) * block + d] == h * block + d
    assert len(columns) == heads * block * repeat


def test_factors_are_laid_over_columns_and_rows() -> None:
    """Of experts each by itself; rows that do not fold have 1."""
    fold = Fold("v_proj", "linear", ((1, 3), (4, 6)), ("o_proj",), block=2, repeat=2)
    factors = np.array([2, 3, 4, 5], np.float32)
    assert fold.on_columns(factors).tolist() == [2, 3, 2, 3, 4, 5, 4, 5]
    assert fold.on_rows(factors, 7).tolist() == [1, 2, 3, 1, 4, 5, 1]
    both = np.stack([factors, 10 * factors])
    assert fold.on_columns(both).tolist() == [fold.on_columns(f).tolist() for f in both]
    assert fold.on_rows(both, 7).tolist() == [fold.on_rows(f, 7).tolist() for f in both]
    assert fold.on_rows(both, 7).dtype == fold.on_columns(both).dtype == np.float32


def test_a_site_reads_as_module_and_role() -> None:
    assert str(Site("model.layers.3.mlp.down_proj", Role.INPUT)) == (
        "model.layers.3.mlp.down_proj input"
    )
    assert Role("k") is Role.K
