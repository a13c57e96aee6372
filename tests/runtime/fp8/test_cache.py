"""The FP8 cache holds what E4M3 and the layer's scales make of keys and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fp8scope.core.formats import E4M3, fake_quantize
from fp8scope.errors import Missing
from fp8scope.runtime.fp8.cache import Fp8Cache, KVScales
from tests import models
from tests.runtime.fp8.reference import db, normals

SCALES = {0: KVScales(0.013, 0.007)}


def _run(model: Any, ids: Tensor, cache: Fp8Cache) -> Tensor:
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


def test_a_latent_that_was_expanded_is_refused() -> None:
    cache = Fp8Cache({0: KVScales(0.1, 0.1, latent_dim=12)}, models.build("deepseek_v3").config)
    with pytest.raises(Missing, match="that of the latent"):
        cache.update(normals(1, 4, 3, 18), normals(1, 4, 3, 6), 0)
