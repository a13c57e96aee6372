"""MLA: the `k` site holds what an engine caches, [latent | rotated key]; there is no `v`.

The latent is caught at kv_a_layernorm, the rotated key in the keys that reach the attention.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import KVLayer
from fp8scope.observe.kvcache import received
from tests import models
from tests.observe import reference, scans

LATENT, ROPE, HEADS = 12, 8, 4


def _catch_keys(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The keys [B, heads, T, nope + rope] of every attention that runs from now on."""
    code = import_module(type(model).__module__)
    attend, caught = code.eager_attention_forward, []

    def catching(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        caught.append(key)
        return attend(module, query, key, *args, **kwargs)

    monkeypatch.setattr(code, "eager_attention_forward", catching)
    return caught


def _catch_latents(model: nn.Module) -> list[Tensor]:
    """The output [B, T, latent] of every kv_a_layernorm that runs from now on."""
    caught: list[Tensor] = []
    for name, module in model.named_modules():
        if name.endswith("kv_a_layernorm"):
            module.register_forward_hook(lambda _, __, out: caught.append(out))
    return caught


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", models.LATENT)
def test_the_cache_of_mla_is_latent_and_rotated_key(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scans.in_dtype(name, dtype, attn_implementation="eager")
    profile = scans.run(model)
    layers = profile.structure.kv_layers
    assert [(kv.kv_heads, kv.head_dim, kv.latent_dim) for kv in layers] == (
        [(1, LATENT + ROPE, LATENT)] * models.LAYERS
    )
    keys, latents = _catch_keys(model, monkeypatch), _catch_latents(model)
    seen = {Site(kv.attention, Role.K): reference.Seen(heads=1) for kv in layers}
    tags, tokens = scans.sequences()
    for sample, sequence in enumerate(tokens):
        keys.clear()
        latents.clear()
        with torch.no_grad():
            model(input_ids=sequence[None], use_cache=True, past_key_values=DynamicCache())
        for site, key, latent in zip(seen, keys, latents, strict=True):
            rotated = key[0, :, :, -ROPE:]
            assert torch.equal(rotated, rotated[:1].expand(HEADS, -1, -1))
            seen[site].sequences[sample] = torch.cat((latent[0], rotated[0]), dim=-1)
    numbers = [profile.tags.index(tag) for tag in tags]
    for site, what in seen.items():
        reference.check(profile.sites[site], what, numbers, len(profile.tags))
        assert Site(site.module, Role.V) not in profile.sites


def test_keys_that_are_expanded_before_the_cache_are_not_taken_for_a_latent() -> None:
    layer = KVLayer(0, "attn", 1, LATENT + ROPE, LATENT)
    latent, rope = torch.zeros(2, 1, 5, LATENT), torch.zeros(2, 1, 5, ROPE)
    assert received(layer, latent, rope)[Role.K].shape == (2, 1, 5, LATENT + ROPE)
    keys, values = torch.zeros(2, HEADS, 5, 18), torch.zeros(2, HEADS, 5, 6)
    assert received(layer, keys, values) == {}
    assert received(None, keys, values) == {Role.K: keys, Role.V: values}
