"""What smoothing is scored by, in the model's own coordinates, is what folding it really gives.

Bit for bit, in fp32 and bf16: factors are powers of two, so that x/s and W·s round as their
undoing expects, and every product of a matmul is the same but for a power of two of its row.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fp8scope.analyze.scales import Float32, Scales
from fp8scope.core.choices import Term, value_folds
from fp8scope.core.gemms import Gemm, Unit
from fp8scope.core.sites import Role
from fp8scope.core.structure import Fold, KVLayer
from fp8scope.observe.applied import Applied
from fp8scope.runtime.experts import named_stacks
from fp8scope.runtime.folding import fold, folded
from fp8scope.runtime.linears import linear_weights
from fp8scope.runtime.quantized import QuantizedCache, QuantizedGemm
from fp8scope.runtime.structure import discover
from tests import models
from tests.observe.quantized_models import Prepared, prepare

ALPHA = 0.5
DTYPES = (torch.float32, torch.bfloat16)


@cache
def _spread(name: str, dtype: torch.dtype = torch.float32) -> Prepared:
    """Channels apart by up to 2^8, so that smoothing has something to do; the function is kept."""
    model, rng = models.build(name), np.random.default_rng(0)
    for each in discover(model).folds:
        if each.takes_factors:
            stack = named_stacks(model).get(each.producer)
            shape = (each.channels,) if stack is None else (len(stack), each.channels)
            fold(model, each, np.exp2(rng.integers(-4, 5, shape)))
    moved: nn.Module = model
    return prepare(moved.to(dtype))


class FoldedScales(Scales):
    """Those of a model in which `smoothed` groups are folded: amax of x/s, and no factor left."""

    def __init__(self, what: Prepared, smoothed: set[str]) -> None:
        super().__init__(what.profile)
        self._smoothed = smoothed
        self._caches = value_folds(what.structure)
        self._group = {m: u.name for u in what.units for g in u.gemms for m in g.members}

    def input_amax(self, gemm: Gemm, alpha: float | None = None) -> float:
        assert alpha is None
        return super().input_amax(gemm, ALPHA if gemm.group in self._smoothed else None)

    def cache_amax(self, layer: KVLayer, role: Role, folded: float | None = None) -> float:
        assert folded is None
        read = self._caches.get(layer.group)
        smoothed = read is not None and self._group[read.consumers[0]] in self._smoothed
        return super().cache_amax(layer, role, ALPHA if smoothed else None)


def _smoothable(what: Prepared) -> list[Unit]:
    return [unit for unit in what.units if unit.smoothable]


def _terms(what: Prepared, unit: Unit) -> list[Term]:
    """The group smoothed, its producers in FP8 with the factors in their rows, and its cache."""
    producers = [other.name for other in what.units if unit.name in other.readers]
    readers = {cache: fold.consumers[0] for cache, fold in value_folds(what.structure).items()}
    caches = [c for c, reader in readers.items() if reader in unit.gemms[0].members]
    others = [Term(name, "fp8_tensor", folded=ALPHA) for name in (*producers, *caches)]
    return [Term(unit.name, "fp8_smooth", ALPHA), *others]


def _factors(what: Prepared, units: Sequence[Unit]) -> dict[Fold, Float32]:
    folds = [gemm.input_fold for unit in units for gemm in unit.gemms if gemm.input_fold]
    return {each: what.scales.factors(each, ALPHA) for each in folds}


def _logits(
    what: Prepared, terms: Sequence[Term], scales: Scales | None = None
) -> tuple[Tensor, Tensor]:
    """In these terms, and before them; of `what.model` as it is now."""
    scales, weights, ids = scales or what.scales, linear_weights(what.model), models.token_ids()
    gemms = {key: QuantizedGemm(own.gemm, weights, scales) for key, own in what.gemms.items()}
    caches = {layer: QuantizedCache(own.layer, scales) for layer, own in what.caches.items()}
    applied = Applied(what.model, gemms, caches, cached=bool(caches))
    before = applied.logits(ids)
    with applied.terms(terms):
        return applied.logits(ids), before


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", models.KNOWN)
def test_a_smoothed_group_is_the_folded_one_quantized(name: str, dtype: torch.dtype) -> None:
    what = _spread(name, dtype)
    assert _smoothable(what)
    for unit in _smoothable(what):
        smoothed = _terms(what, unit)
        plain = [Term(term.group, "fp8_tensor") for term in smoothed]
        virtual, before = _logits(what, smoothed)
        with folded(what.model, _factors(what, [unit])):
            real, between = _logits(what, plain, FoldedScales(what, {unit.name}))
        assert torch.equal(between, before), unit.name
        assert torch.equal(virtual, real), unit.name
        assert not torch.equal(virtual, before), unit.name
        assert not torch.equal(virtual, _logits(what, plain)[0]), unit.name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", models.KNOWN)
def test_so_is_the_model_smoothed_as_a_whole(name: str, dtype: torch.dtype) -> None:
    what = _spread(name, dtype)
    smoothed = _smoothable(what)
    names = {unit.name for unit in smoothed}
    terms = [
        Term(
            unit.name,
            "fp8_smooth" if unit in smoothed else "fp8_tensor",
            ALPHA if unit in smoothed else None,
            ALPHA if names & set(unit.readers) else None,
        )
        for unit in what.units
    ]
    virtual, before = _logits(what, terms)
    with folded(what.model, _factors(what, smoothed)):
        plain = [Term(unit.name, "fp8_tensor") for unit in what.units]
        real, between = _logits(what, plain, FoldedScales(what, names))
    assert torch.equal(between, before)
    assert torch.equal(virtual, real)
    assert not torch.equal(virtual, before)


@pytest.mark.parametrize("name", models.KNOWN)
def test_a_scan_of_the_folded_model_finds_the_static_scales(name: str) -> None:
    """The amax of x/s that a profile gives without folding is the one calibration would see."""
    what = _spread(name)
    model = copy.deepcopy(what.model)
    for each, factors in _factors(what, _smoothable(what)).items():
        fold(model, each, factors)
    seen, scales = prepare(model), FoldedScales(what, {unit.name for unit in _smoothable(what)})
    for gemm in (own.gemm for own in what.gemms.values()):
        assert seen.scales.input_amax(gemm) == scales.input_amax(gemm), gemm.members
    for layer in what.structure.kv_layers:
        for role in (Role.K,) if layer.latent_dim else (Role.K, Role.V):
            assert seen.scales.cache_amax(layer, role) == scales.cache_amax(layer, role)
