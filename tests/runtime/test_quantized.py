"""A GEMM in a candidate is what an engine computes after the folds are really made."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fp8scope.core.choices import Part, Term
from fp8scope.core.formats import E4M3
from fp8scope.core.gemms import Gemm
from fp8scope.core.schemes import CANDIDATES
from fp8scope.core.sites import Role, Site
from fp8scope.runtime import folding
from fp8scope.runtime.experts import named_experts
from fp8scope.runtime.fake_quant import fake_quantize
from fp8scope.runtime.linears import linear_weights
from tests import models
from tests.observe import reference, scans
from tests.observe.quantized_models import Loop, Prepared, prepared

ALPHA = 0.5
SMOOTHED = ("fp8_smooth", "int8_smooth")


def folded(what: Prepared) -> Any:
    """A copy of the model with every fold that smoothing may use really made."""
    model = copy.deepcopy(what.model)
    for fold in what.structure.folds:
        if fold.takes_factors:
            folding.fold(model, fold, what.scales.factors(fold, ALPHA))
    return model


def _inputs(what: Prepared, model: Any) -> dict[str, list[Tensor]]:
    """What each GEMM reads, by its first member; of stacks, by expert."""
    tokens = scans.sequences()[1][3:4]
    loops = {experts: Loop(experts) for experts in named_experts(model).values()}
    seen = reference.capture(model, what.structure, tokens)
    found = {s.module: [x.sequences[0]] for s, x in seen.items() if s.role is Role.INPUT}
    for experts, loop in loops.items():
        for stack, place in ((experts.first, 1), (experts.last, 3)):
            found[stack] = [kept[place].detach() for kept in loop.kept.values()]
        del experts.module.forward
    return found


def _quantized(weights: list[Tensor], candidate: str) -> list[Tensor]:
    scheme = CANDIDATES[candidate].weight
    assert scheme is not None
    amax = max(float(weight.abs().max()) for weight in weights)
    return [fake_quantize(weight, scheme, amax) for weight in weights]


@pytest.mark.parametrize("candidate", [*SMOOTHED, "fp8_block", "fp8_tensor", "nvfp4"])
@pytest.mark.parametrize("name", [n for n in models.KNOWN if n != "mistral"])
def test_the_same_as_after_really_folding(name: str, candidate: str) -> None:
    """All folds at once, so that inputs are x/s and weights W·s/r: outputs, and the parts."""
    what = prepared(name)
    model, smooth = folded(what), CANDIDATES[candidate].smooth
    weights = {name: weight.detach() for name, weight in linear_weights(model).items()}
    plain, moved = _inputs(what, what.model), _inputs(what, model)
    for quantized in what.gemms.values():
        gemm = quantized.gemm
        if gemm.experts and not smooth:
            continue  # their rows are folded by their own smoothing alone
        alpha = ALPHA if smooth and gemm.input_fold else None
        term = Term(gemm.group, candidate, alpha, None if gemm.experts else ALPHA)
        reads = (moved if alpha else plain)[gemm.members[0]]
        for expert, x in enumerate(reads):
            number = expert if gemm.experts else None
            members = [
                weights[name] if number is None else weights[name][expert] for name in gemm.members
            ]
            columns = None if alpha else what.scales.columns(gemm, ALPHA)
            if columns is not None:  # in the folded model, but not in this candidate
                members = [weight / torch.from_numpy(columns) for weight in members]
            want = _engine(what, gemm, members, x, term)
            read = quantized.input(plain[gemm.members[0]][expert], term, number)
            got = torch.cat([read @ w.T for w in quantized.weights(term, number)], dim=1)
            torch.testing.assert_close(got / _rows(what, gemm, number), want)


def _engine(what: Prepared, gemm: Gemm, members: list[Tensor], x: Tensor, term: Term) -> Tensor:
    """Q(x) @ Q(W).T."""
    read, scheme = x, CANDIDATES[term.candidate].input
    if scheme is not None:
        read = fake_quantize(x, scheme, what.scales.input_amax(gemm, term.alpha))
    return torch.cat([read @ w.T for w in _quantized(members, term.candidate)], dim=1)


def _rows(what: Prepared, gemm: Gemm, expert: int | None) -> Tensor:
    """The factors that divide the rows of the members, one below the other."""
    parts = []
    for name, weight in zip(gemm.members, what.gemms[gemm.members].members, strict=True):
        rows = what.scales.rows(gemm, name, ALPHA, weight.shape[-2])
        mine = np.ones(weight.shape[-2], np.float32) if rows is None else rows
        parts.append(mine if mine.ndim == 1 else mine[expert])
    return torch.from_numpy(np.concatenate(parts))


@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2"])
def test_the_model_s_weights_and_inputs_are_not_written_into(name: str) -> None:
    what = prepared(name)
    state = {key: value.clone() for key, value in what.model.state_dict().items()}
    x = torch.randn(5, models.HIDDEN)
    before = x.clone()
    for quantized in what.gemms.values():
        gemm, expert = quantized.gemm, 0 if quantized.gemm.experts else None
        for candidate in CANDIDATES.values():
            alpha = ALPHA if candidate.smooth else None
            for part in Part:
                term = Term(gemm.group, candidate.name, alpha, None, part)
                quantized.weight_error(term, expert)
                if quantized.members[0].shape[-1] == models.HIDDEN:
                    quantized.input(x, term, expert).add(1)
    assert torch.equal(x, before)
    assert all(torch.equal(v, state[k]) for k, v in what.model.state_dict().items())


def test_each_side_alone() -> None:
    what = prepared("llama")
    quantized = what.gemms[what.unit("layers.0.self_attn.qkv").gemms[0].members]
    x = torch.randn(5, models.HIDDEN)
    both = Term(quantized.gemm.group, "fp8_smooth", ALPHA)
    weight, inputs = both._replace(part=Part.WEIGHT), both._replace(part=Part.INPUT)
    assert torch.equal(quantized.input(x, weight), x)
    assert torch.equal(quantized.input(x, inputs), quantized.input(x, both))
    assert not torch.equal(quantized.input(x, both), x)
    assert not any(error.any() for error in quantized.weight_error(inputs))
    for one, other in zip(
        quantized.weight_error(weight), quantized.weight_error(both), strict=True
    ):
        assert torch.equal(one, other)
    assert all(error.any() for error in quantized.weight_error(both))
    only = Term(quantized.gemm.group, "int4_weight")
    assert torch.equal(quantized.input(x, only), x)


def test_a_fused_group_has_one_scale_per_tensor() -> None:
    """v alone would have a finer one: engines take the largest of q, k and v."""
    model = models.build("llama")
    with torch.no_grad():
        linear_weights(model)["model.layers.0.self_attn.q_proj"][0, 0] = 40.0
    what = Prepared(model, scans.run(model))
    quantized = what.gemms[what.unit("layers.0.self_attn.qkv").gemms[0].members]
    v = quantized.weights(Term(quantized.gemm.group, "fp8_tensor"))[2]
    grid = v / float(np.float32(40) / np.float32(448))
    torch.testing.assert_close(grid, grid.to(torch.float8_e4m3fn).float(), rtol=1e-6, atol=0)


def test_the_cache_has_a_scale_for_keys_and_one_for_values() -> None:
    what = prepared("llama")
    cache = what.caches[0]
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, cache.layer.kv_heads, 5, cache.layer.head_dim, generator=generator) * 90
    group = cache.layer.group
    unit = cache.quantize(Role.K, values, Term(group, "fp8_unit"))
    assert torch.equal(unit, values.clamp(-448, 448).to(torch.float8_e4m3fn).float())
    for role in (Role.K, Role.V):
        amax = what.profile.sites[Site(cache.layer.attention, role)].channel_amax.max()
        scale = torch.tensor(float(E4M3.scale(float(amax))))
        want = (values / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
        assert torch.equal(cache.quantize(role, values, Term(group, "fp8_tensor")), want)
    factors = what.scales.cache_factors(cache.layer, Role.V, ALPHA)
    assert factors is not None
    by_head = torch.from_numpy(factors).view(-1, 1, cache.layer.head_dim)
    want = (values / by_head).clamp(-448, 448).to(torch.float8_e4m3fn).float() * by_head
    got = cache.quantize(Role.V, values, Term(group, "fp8_unit", folded=ALPHA))
    assert torch.equal(got, want)
    assert not torch.equal(got, unit)
    assert torch.equal(cache.quantize(Role.K, values, Term(group, "fp8_unit", folded=ALPHA)), unit)


def test_a_latent_cache_has_one_scale() -> None:
    what = prepared("deepseek_v3")
    cache = what.caches[0]
    amax = what.profile.sites[Site(cache.layer.attention, Role.K)].channel_amax.max()
    rotated = torch.randn(1, 1, 5, cache.layer.head_dim - cache.layer.latent_dim)
    got = cache.quantize(Role.V, rotated, Term(cache.layer.group, "fp8_tensor"))
    scale = torch.tensor(float(E4M3.scale(float(amax))))
    want = (rotated / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
    assert torch.equal(got, want)


def test_a_latent_is_cached_divided_by_what_its_reader_is_smoothed_with() -> None:
    """Its norm folds into kv_b_proj; the rotated key beside it keeps its values, and the scale."""
    model = models.build("deepseek_v3")
    with torch.no_grad():
        model.get_parameter("model.layers.0.self_attn.kv_a_layernorm.weight")[3] = 200.0
    what = Prepared(model, scans.run(model))
    cache = what.caches[0]
    width = cache.layer.latent_dim
    factors = what.scales.cache_factors(cache.layer, Role.K, ALPHA)
    assert factors is not None
    amax = what.scales.cache_amax(cache.layer, Role.K, ALPHA)
    assert factors[3] > 4
    assert amax < what.scales.cache_amax(cache.layer, Role.K) / 4
    scale = torch.tensor(float(E4M3.scale(amax)))
    term = Term(cache.layer.group, "fp8_tensor", folded=ALPHA)
    for role, part in ((Role.K, factors[:width]), (Role.V, factors[width:])):
        x = torch.randn(1, 1, 5, len(part), generator=torch.Generator().manual_seed(0))
        by = torch.from_numpy(part)
        want = (x / by / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale * by
        assert torch.equal(cache.quantize(role, x, term), want)
