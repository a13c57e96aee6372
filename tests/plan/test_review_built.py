"""What a plan's two files tell a build to do is, bit for bit, what was scored and is measured.

The builder here reads plan.json and plan.npz alone: it folds, casts weights plainly, and takes
every static scale from the plan.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fp8scope.analyze.scales import Scales
from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import read_factors, read_plan, write_plan
from fp8scope.core.choices import Choices, Term
from fp8scope.core.formats import E4M3
from fp8scope.core.gemms import Gemm
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.core.sites import Role
from fp8scope.core.structure import Fold, KVLayer
from fp8scope.observe.applied import Applied
from fp8scope.plan.make import make_plan
from fp8scope.plan.settings import PlanSettings
from fp8scope.profile.record import Profile
from fp8scope.runtime.folding import fold
from fp8scope.runtime.linears import linear_weights
from fp8scope.runtime.quantized import QuantizedCache, QuantizedGemm
from tests import models
from tests.observe.quantized_models import Prepared
from tests.observe.test_smoothed import _spread as spread
from tests.profiles import scored


class PlanScales(Scales):
    """Those in plan.json; no factor is left, for all are folded."""

    def __init__(self, profile: Profile, plan: Plan) -> None:
        super().__init__(profile)
        self._inputs = {s.members: s.input_scale for group in plan.groups for s in group.scales}
        self._stored = {cache.name: cache for cache in plan.kv_cache}

    def input_amax(self, gemm: Gemm, alpha: float | None = None) -> float:
        assert alpha is None
        return self._inputs[gemm.members] * E4M3.max

    def cache_amax(self, layer: KVLayer, role: Role, folded: float | None = None) -> float:
        cache = self._stored[layer.group]
        scale = cache.k_scale if role is Role.K else cache.v_scale
        assert folded is None
        assert scale is not None
        return scale * E4M3.max


def invented(of: Profile, what: Prepared) -> Profile:
    """Any nats; smoothing saves most of them."""
    rng = np.random.default_rng(0)
    nats = {}
    for row in Choices(DEFAULT_CANDIDATES).rows(what.structure, what.units):
        first = row.terms[0]
        smoothed = first.alpha is not None or first.folded is not None
        nats[row] = float(rng.lognormal(-6, 1.2)) * (0.05 if smoothed else 1)
    return scored(of, nats)


def logits(model: Any, what: Prepared, scales: Scales, terms: tuple[Term, ...]) -> Tensor:
    weights = linear_weights(model)
    gemms = {key: QuantizedGemm(own.gemm, weights, scales) for key, own in what.gemms.items()}
    caches = {layer: QuantizedCache(own.layer, scales) for layer, own in what.caches.items()}
    applied = Applied(model, gemms, caches, cached=bool(caches))
    with applied.terms(terms):
        return applied.logits(models.token_ids())


def plainly(plan: Plan) -> tuple[Term, ...]:
    """Smoothed groups are plain FP8 once the factors are folded."""
    names = {"fp8_smooth": "fp8_tensor"}
    return tuple(Term(t.group, names.get(t.candidate, t.candidate)) for t in plan.terms())


@pytest.mark.parametrize("cache", ["fp8", "bf16"])
@pytest.mark.parametrize("name", models.KNOWN)
def test_a_build_of_the_plan_is_what_was_scored(name: str, cache: Any, tmp_path: Path) -> None:
    what, path = spread(name, torch.bfloat16), tmp_path / "plan.json"
    profile = invented(what.profile, what)
    write_plan(*make_plan(profile, PlanSettings(preset="fast", kv_cache=cache)), path)
    plan = read_plan(path)
    factors, model = read_factors(plan, path), copy.deepcopy(what.model)
    assert plan.folds
    for each in plan.folds:
        rest = (each.producer, each.kind, each.rows, each.consumers, each.block, each.repeat)
        fold(model, Fold(*rest), factors[each.key])
    built = logits(model, what, PlanScales(profile, plan), plainly(plan))
    assert torch.equal(built, logits(what.model, what, what.scales, plan.terms()))
    assert not torch.equal(built, logits(what.model, what, what.scales, ()))
