"""A KV cache that keeps nothing and shows what it receives.

Keys arrive after rotary embedding and any K norm, in the layout [batch, kv_heads, tokens,
head_dim]: exactly what an engine would quantize.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import DynamicCache

Observer = Callable[[int, Tensor, Tensor], None]


class ObservedCache(DynamicCache):
    """Calls `observer(layer, keys, values)` at each update and stays empty."""

    def __init__(self, observer: Observer, config: Any) -> None:
        super().__init__(config=config)
        self._observer = observer

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Show keys and values and hand them back unchanged."""
        self._observer(layer_idx, key_states, value_states)
        return key_states, value_states
