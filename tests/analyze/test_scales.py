"""Scales and factors against their definitions, from the tensors that the model computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.analyze.scales import Scales
from fp8scope.core.gemms import Gemm, routers
from fp8scope.core.sites import Role, Site
from fp8scope.core.smoothing import smoothing_factors
from fp8scope.core.structure import Fold
from fp8scope.runtime.experts import named_experts
from fp8scope.runtime.linears import linear_weights
from tests import models
from tests.observe import reference, scans
from tests.observe.quantized_models import Loop, Prepared, prepare, prepared

ALPHA = 0.5
Float32 = NDArray[np.float32]


class Truth:
    """Every tensor of a model over the text of its profile, and the definitions on them."""

    def __init__(self, what: Prepared) -> None:
        self.structure = what.structure
        self.weights = {n: w.detach().float() for n, w in linear_weights(what.model).items()}
        sequences = scans.sequences()[1]
        seen = reference.capture(what.model, what.structure, sequences)
        self.seen = {site: torch.cat(list(s.sequences.values())) for site, s in seen.items()}
        self.by_expert: dict[str, dict[int, Tensor]] = {}
        for experts in named_experts(what.model).values():
            loop, parts = Loop(experts), []
            with torch.no_grad():
                for tokens in sequences:
                    what.model(input_ids=tokens[None], use_cache=False)
                    parts.append(loop.kept)
                    loop.kept = {}
            del experts.module.forward
            for stack, place in ((experts.first, 1), (experts.last, 3)):
                self.by_expert[stack] = {
                    expert: torch.cat([part[expert][place] for part in parts])
                    for expert in range(experts.count)
                }
                self.seen[Site(stack, Role.INPUT)] = torch.cat([*self.by_expert[stack].values()])

    def _amax(self, fold: Fold, inputs: Tensor, weights: list[Tensor]) -> tuple[Float32, Float32]:
        """Loop over the columns: each belongs to one channel."""
        x, w = np.zeros(fold.channels, np.float32), np.zeros(fold.channels, np.float32)
        for column, channel in enumerate(fold.consumer_channels()):
            x[channel] = max(x[channel], float(inputs[:, column].abs().max()))
            for weight in weights:
                w[channel] = max(w[channel], float(weight[..., column].abs().max()))
        return x, w

    def factors(self, fold: Fold) -> Float32:
        chosen = routers(self.structure)
        first = fold.consumers[0]
        if fold.kind == "linear" and first in self.by_expert:
            stack = self.by_expert[first]
            pairs = [
                self._amax(fold, x if len(x) else x.new_zeros(1, x.shape[1]), [weight])
                for x, weight in zip(stack.values(), self.weights[first], strict=True)
            ]
            x, w = (np.stack(side) for side in zip(*pairs, strict=True))
        else:
            read = [self.weights[name] for name in fold.consumers if name not in chosen]
            x, w = self._amax(fold, self.seen[Site(first, Role.INPUT)], read)
        return smoothing_factors(x, w, ALPHA)


NAMES = ("llama", "qwen3", "phi3", "gpt2", "gpt_neox", "opt", "gemma2", "mixtral", "qwen3_moe")
DEEP = ("deepseek_v2", "deepseek_v2_lite", "deepseek_v3")


def _gemms(what: Prepared) -> list[Gemm]:
    return [quantized.gemm for quantized in what.gemms.values()]


@pytest.mark.parametrize("name", NAMES + DEEP)
def test_factors_and_scales_by_their_definition(name: str) -> None:
    what = prepared(name)
    truth, scales = Truth(what), what.scales
    for fold in what.structure.folds:
        np.testing.assert_array_equal(scales.factors(fold, ALPHA), truth.factors(fold))
    for gemm in _gemms(what):
        x = truth.seen[Site(gemm.members[0], Role.INPUT)].numpy()
        assert scales.seen(gemm)
        assert scales.input_amax(gemm) == np.abs(x).max()
        assert scales.columns(gemm, None) is None
        columns = scales.columns(gemm, ALPHA)
        if gemm.input_fold is None:
            assert columns is None
            assert scales.input_amax(gemm, ALPHA) == np.abs(x).max()
            continue
        assert columns is not None
        if columns.ndim == 1:
            assert scales.input_amax(gemm, ALPHA) == np.abs(x / columns).max()
        else:  # one scale for all experts, each with factors of its own
            by_expert = truth.by_expert[gemm.members[0]]
            parts = [np.abs(x.numpy() / columns[e]).max(initial=0) for e, x in by_expert.items()]
            assert scales.input_amax(gemm, ALPHA) == max(parts)


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3", "mixtral"])
def test_all_readers_of_a_norm_get_the_same_factors(name: str) -> None:
    what = prepared(name)
    norms: dict[str, list[Float32]] = {}
    for gemm in _gemms(what):
        columns = what.scales.columns(gemm, ALPHA)
        if gemm.input_fold is not None and gemm.input_fold.kind == "norm" and columns is not None:
            norms.setdefault(gemm.input_fold.producer, []).append(columns)
    shared = [found for found in norms.values() if len(found) > 1]
    assert bool(shared) == (name != "mixtral")
    for found in shared:
        assert all(np.array_equal(other, found[0]) for other in found)


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3"])
def test_a_router_s_weight_shapes_no_factor(name: str) -> None:
    """Nobody quantizes it."""
    model = models.build(name)
    for router in routers(prepared(name).structure):
        with torch.no_grad():  # far above all other columns
            linear_weights(model)[router][0, 3] = 1e3
    what = prepare(model)
    truth = Truth(what)
    for fold in what.structure.folds:
        np.testing.assert_array_equal(what.scales.factors(fold, ALPHA), truth.factors(fold))


@pytest.mark.parametrize("name", [n for n in NAMES + DEEP if n != "gemma2"])
def test_rows_divide_what_the_reader_multiplies(name: str) -> None:
    """Channel by channel: the factor of a producer's row is that of each column that reads it."""
    what = prepared(name)
    readers = {m: gemm for gemm in _gemms(what) for m in gemm.members}
    seen = 0
    for gemm in _gemms(what):
        for member in gemm.members:
            out = what.gemms[gemm.members].true_weights()[gemm.members.index(member)].shape[-2]
            assert what.scales.rows(gemm, member, None, out) is None
            rows = what.scales.rows(gemm, member, ALPHA, out)
            fold = gemm.output_folds.get(member)
            if fold is None:
                assert rows is None
                continue
            seen += 1
            columns = what.scales.columns(readers[fold.consumers[0]], ALPHA)
            assert rows is not None
            assert columns is not None
            assert rows.shape[-1] == out
            row_of = list(fold.producer_rows())
            for column, channel in enumerate(fold.consumer_channels()):
                assert (rows[..., row_of[channel]] == columns[..., column]).all()
            others = sorted(set(range(out)) - set(row_of))
            assert (rows[..., others] == 1).all()
    assert seen


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "deepseek_v3"])
def test_scales_of_the_cache(name: str) -> None:
    what = prepared(name)
    truth = Truth(what)
    for layer in what.structure.kv_layers:
        roles = [Role.K] if layer.latent_dim else [Role.K, Role.V]
        for role in roles:
            values = truth.seen[Site(layer.attention, role)].abs()
            assert what.scales.cache_amax(layer, role) == values.max()
        factors = what.scales.cache_factors(layer, roles[-1], ALPHA)
        assert what.scales.cache_factors(layer, roles[-1], None) is None
        if not layer.latent_dim:
            assert what.scales.cache_factors(layer, Role.K, ALPHA) is None
        assert factors is not None
        if layer.latent_dim:
            assert (factors[layer.latent_dim :] == 1).all()
        smoothed = truth.seen[Site(layer.attention, roles[-1])].numpy() / factors
        assert what.scales.cache_amax(layer, roles[-1], ALPHA) == np.abs(smoothed).max()


def test_a_gemm_that_never_ran_is_not_seen() -> None:
    what = prepared("llama")
    gemm = what.unit("layers.1.mlp.down_proj").gemms[0]
    profile = scans.run(models.build("llama"))
    profile.sites = {k: v for k, v in profile.sites.items() if k.module not in gemm.members}
    assert what.scales.seen(gemm)
    assert not Scales(profile).seen(gemm)
