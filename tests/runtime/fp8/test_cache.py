"""The FP8 cache holds what E4M3 and the layer's scales make of keys and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fp8scope.core.formats import E4M3, fake_quantize
from fp8scope.errors import Missing
from fp8scope.runtime.fp8.cache import Fp8Cache, Fp8StaticCache, KVScales
from fp8scope.runtime.fp8.codes import quantize
from tests import models
from tests.runtime.fp8.reference import db, normals

SCALES = {0: KVScales(0.013, 0.007)}


def _run(model: Any, ids: Tensor, cache: Fp8Cache | Fp8StaticCache) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
    return logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rounds_as_core_does(dtype: torch.dtype) -> None:
    """The layer without scales is left alone; 448 times the scale is the most that is kept."""
    cache = Fp8Cache(SCALES, models.build("llama").config)
    keys, values = (3 * normals(2, 2, 5, 12, seed=seed).to(dtype) for seed in (0, 1))
    before = keys.clone(), values.clone()
    kept = cache.update(keys, values, 0)
    for got, x, scale in zip(kept, before, (0.013, 0.007), strict=True):
        want = fake_quantize(x.float().numpy(), np.float32(scale), E4M3)
        assert want.saturated.any()
        assert got.dtype is dtype
        assert torch.equal(got, torch.from_numpy(want.values).to(dtype))
    assert torch.equal(keys, before[0])
    kept = cache.update(keys, values, 1)
    assert torch.equal(torch.stack(kept), torch.stack(before))


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "deepseek_v3"])
def test_prefill_and_decode_are_one_prefill(name: str) -> None:
    """Token by token, and all at once; sliding windows of 4 tokens included."""
    model = models.build(name)
    latent = 12 if name.startswith("deepseek") else 0
    scales = {layer: KVScales(0.02, 0.02 if latent else 0.01, latent) for layer in range(2)}
    ids = models.token_ids(length=9)
    whole = _run(model, ids, Fp8Cache(scales, model.config))
    cache = Fp8Cache(scales, model.config)
    parts = [_run(model, ids[:, :4], cache)]
    parts += [_run(model, ids[:, at : at + 1], cache) for at in range(4, 9)]
    assert db(torch.cat(parts, dim=1), whole) > 100
    assert 10 < db(whole, models.logits(model, ids)) < 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_byte_for_each_number(dtype: torch.dtype) -> None:
    """The layer with scales is held in codes, at half the memory of bf16; the other as it came."""
    config = models.build("llama").config
    keys, values = (normals(2, 2, 5, 12, seed=seed).to(dtype) for seed in (0, 1))
    caches: tuple[Any, ...] = Fp8Cache(SCALES, config), Fp8StaticCache(SCALES, config, 8)
    for cache in caches:
        for layer in (0, 1):
            cache.update(keys, values, layer)
        coded, plain = cache.layers
        assert coded.keys.dtype is coded.values.dtype is torch.uint8
        assert plain.keys.dtype is dtype
        codes = coded.keys[:, :, :5].view(torch.float8_e4m3fn)
        assert torch.equal(codes, quantize(keys, torch.tensor(0.013)))


@pytest.mark.parametrize("name", ["llama", "phi3", "deepseek_v3"])
def test_one_that_stays_in_place(name: str) -> None:
    """Prefill and decode as with the one that grows, at the same addresses throughout."""
    model = models.build(name)
    latent = 12 if name.startswith("deepseek") else 0
    scales = {layer: KVScales(0.02, 0.02 if latent else 0.01, latent) for layer in range(2)}
    ids = models.token_ids(length=9)
    grows: Any = Fp8Cache(scales, model.config)
    stays: Any = Fp8StaticCache(scales, model.config, 11)
    addresses = []
    for part in (ids[:, :4], *ids[:, 4:].split(1, dim=1)):
        assert db(_run(model, part, stays), _run(model, part, grows)) > 100
        addresses.append(stays.layers[1].keys.data_ptr())
    assert len(set(addresses)) == 1
    for held, found in zip(stays.layers, grows.layers, strict=True):
        assert torch.equal(held.keys[:, :, :9], found.keys)
        assert not held.keys[:, :, 9:].any()


def test_a_latent_that_was_expanded_is_refused() -> None:
    cache = Fp8Cache({0: KVScales(0.1, 0.1, latent_dim=12)}, models.build("deepseek_v3").config)
    with pytest.raises(Missing, match="that of the latent"):
        cache.update(normals(1, 4, 3, 18), normals(1, 4, 3, 6), 0)
