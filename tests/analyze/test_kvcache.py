"""The KV cache in FP8: heads under one scale, and the unit scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fp8scope.analyze.kvcache import CachedLayer, Safety, kv_cache
from fp8scope.core.choices import Kind, Row, Term
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import KVLayer
from fp8scope.profile.record import Profile
from tests.profiles import ATTENTION, KEYS, build, scored, site_record

VALUES = Site(ATTENTION, Role.V)


def cache(*factors: float, seed: int = 0) -> NDArray[np.float32]:
    """[512 tokens, 16 channels a head]: Gaussian heads of these sizes, as bf16 holds them."""
    x = np.random.default_rng(seed).standard_normal((512, len(factors), 16)).astype(np.float32)
    x *= np.array(factors, np.float32)[:, None]
    return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).reshape(512, -1)


def of(**tensors: NDArray[np.float32]) -> Profile:
    """Modules by name: `k0` is the keys of layer 0."""
    sites = {}
    for name, values in tensors.items():
        site = Site(ATTENTION.replace("0", name[1:]), Role(name[0]))
        sites[site] = site_record([(0, values)], 1, heads=values.shape[1] // 16)
    return build(indices=range(1), tags=("a",), sites=sites, aliases={})


def layer(**tensors: NDArray[np.float32]) -> CachedLayer:
    (found,) = kv_cache(of(**tensors))
    return found


def test_even_heads_are_safe_with_either_scale() -> None:
    found = layer(k0=cache(1, 2), v0=cache(0.5, 0.5))
    assert (found.calibrated_safety, found.unit_safety) == (Safety.SAFE, Safety.SAFE)
    assert found.worst.lowest_db > 30
    assert len(found.tensors) == 2
    assert (found.kl, found.unit_kl) == (None, None)


def test_a_small_head_beside_a_large_one_is_lost_though_the_whole_looks_well() -> None:
    keys = cache(1e6, *[1.0], seed=1)
    keys = np.concatenate([cache(*[1e6] * 15), keys], axis=1)
    found = layer(k0=keys, v0=cache(*[1.0] * 17))
    tensor = found.worst
    assert tensor.site == KEYS
    assert tensor.calibrated.body_sqnr_db > 30
    assert tensor.heads[0].head == 16
    assert tensor.heads[0].error.body_sqnr_db < 10
    assert tensor.heads[0].error.underflow_rate > 0.5
    assert found.calibrated_safety is Safety.UNSAFE


@pytest.mark.parametrize(
    ("largest", "safety"),
    [(448, Safety.SAFE), (464, Safety.SAFE), (480, Safety.MARGINAL), (600, Safety.UNSAFE)],
)
def test_scale_1_clips_what_lies_above_448(largest: float, safety: Safety) -> None:
    keys = cache(1.0)
    keys[3, 3] = largest
    found = layer(k0=keys)
    assert found.unit_safety is safety
    assert found.worst.unit.saturated == (largest > 464)
    assert found.calibrated_safety is Safety.SAFE


def test_scale_1_flushes_what_is_small() -> None:
    found = layer(k0=cache(1.0), v0=cache(2.0**-11))
    values = next(tensor for tensor in found.tensors if tensor.site == VALUES)
    assert found.unit_safety is Safety.UNSAFE
    assert values.unit.underflow_rate > 0.5
    assert found.calibrated_safety is Safety.SAFE


def test_underflow_alone_makes_scale_1_marginal() -> None:
    keys = cache(1.0)
    keys[:16] = 2.0**-12  # 3% of the values
    found = layer(k0=keys)
    assert found.worst.unit.body_sqnr_db > 30
    assert found.unit_safety is Safety.MARGINAL


def kl(profile: Profile, **nats: float) -> Profile:
    """Scored: `kl0` is the KL of layer 0's cache with calibrated scales, `unit0` with scale 1."""
    names = {"kl": "fp8_tensor", "unit": "fp8_unit"}
    layers = tuple(KVLayer(i, ATTENTION.replace("0", str(i)), 2, 16) for i in range(3))
    profile.structure = replace(profile.structure, kv_layers=layers)
    return scored(
        profile,
        {
            Row(Kind.KV, (Term(layers[int(key[-1])].group, names[key[:-1]]),)): value
            for key, value in nats.items()
        },
    )


def test_layers_come_worst_first_and_their_kl_goes_before_all() -> None:
    bad = np.concatenate([cache(1e6), cache(1.0)], axis=1)
    profile = of(k0=cache(1.0, 1.0), k1=bad, k2=cache(2.0, 2.0))
    modules = [ATTENTION.replace("0", str(i)) for i in range(3)]
    assert kv_cache(profile)[0].module == modules[1]
    layers = kv_cache(kl(profile, kl0=0.001, unit0=0.3, kl2=0.2))
    assert [found.module for found in layers] == [modules[2], modules[0], modules[1]]
    assert [found.kl.kl for found in layers if found.kl] == pytest.approx([0.2, 0.001])
    assert [found.calibrated_safety for found in layers] == [
        *(Safety.UNSAFE, Safety.SAFE, Safety.UNSAFE)
    ]
    assert [found.unit_safety for found in layers] == [*(Safety.SAFE, Safety.UNSAFE, Safety.UNSAFE)]


def test_a_damaged_cache_that_costs_nothing_is_marginal() -> None:
    bad = np.concatenate([cache(1e6), cache(1.0)], axis=1)
    (found,) = kv_cache(kl(of(k0=bad), kl0=1e-5))
    assert found.worst.calibrated_safety is Safety.UNSAFE
    assert found.calibrated_safety is Safety.MARGINAL


def test_one_latent_head() -> None:
    found = layer(k0=cache(1.0))
    assert [tensor.site.role for tensor in found.tensors] == [Role.K]


def test_no_cache_and_a_silent_one() -> None:
    assert kv_cache(build(sites={})) == []
    found = layer(k0=np.zeros((4, 16), np.float32))
    assert (found.calibrated_safety, found.unit_safety) == (Safety.SAFE, Safety.SAFE)
