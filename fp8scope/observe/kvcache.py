"""A KV cache that keeps nothing and shows what it receives.

Keys arrive after rotary embedding and any K norm, in the layout [batch, kv_heads, tokens,
head_dim]: exactly what an engine would quantize. Under latent attention (MLA) the latent comes
as keys, and the rotated part of the key as values; an engine keeps both as one vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from fp8scope.core.sites import Role
from fp8scope.core.structure import KVLayer

Observer = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor] | None]


class ObservedCache(DynamicCache):
    """Calls `observer(layer, keys, values)` at each update and stays empty.

    What the observer returns, if anything, is read in place of what came.
    """

    def __init__(self, observer: Observer, config: Any) -> None:
        super().__init__(config=config)
        self._observer = observer

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Show keys and values, and hand them back."""
        return self._observer(layer_idx, key_states, value_states) or (key_states, value_states)


def received(layer: KVLayer | None, keys: Tensor, values: Tensor) -> dict[Role, Tensor]:
    """What an engine's cache receives in place of `keys` and `values`, [B, heads, T, channels].

    Nothing where the layer should keep a latent and the model has expanded it before caching,
    as older versions of transformers do. `layer` is None in an unknown architecture.
    """
    if layer is None or not layer.latent_dim:
        return {Role.K: keys, Role.V: values}
    shapes = (tuple(tensor.shape[1::2]) for tensor in (keys, values))
    if tuple(shapes) != ((1, layer.latent_dim), (1, layer.head_dim - layer.latent_dim)):
        return {}
    return {Role.K: torch.cat((keys, values), dim=-1)}
