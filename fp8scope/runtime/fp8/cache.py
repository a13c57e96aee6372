"""A KV cache in E4M3, with the static scales of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from fp8scope.errors import Missing
from fp8scope.runtime.fp8.codes import quantize


@dataclass(frozen=True)
class KVScales:
    """Scales of one layer's keys and values.

    Under latent attention (`latent_dim` above 0) an engine caches one vector, [latent | rotated
    key], with one scale: k, and v equals it.
    """

    k: float
    v: float
    latent_dim: int = 0


class Fp8Cache(DynamicCache):
    """Keys and values rounded to E4M3 when they come, and kept so, in the model's dtype.

    Attention reads the rounded ones from the first token on, in prefill as in decode. Layers
    without scales are kept as they are. config: the model's.
    """

    def __init__(self, scales: Mapping[int, KVScales], config: Any) -> None:
        super().__init__(config=config)
        self._scales = scales

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Take keys and values [batch, heads, tokens, channels], and give all kept so far.

        Raises Missing where this transformers expands a latent before it is cached.
        """
        scales = self._scales.get(layer_idx)
        if scales is not None:
            _check_latent(scales, key_states)
            key_states = _rounded(key_states, scales.k)
            value_states = _rounded(value_states, scales.v)
        kept: tuple[Tensor, Tensor] = super().update(
            key_states, value_states, layer_idx, *args, **kwargs
        )
        return kept


def _rounded(x: Tensor, scale: float) -> Tensor:
    by = torch.tensor(scale, dtype=torch.float32, device=x.device)
    return (quantize(x, by).float() * by).to(x.dtype)


def _check_latent(scales: KVScales, keys: Tensor) -> None:
    if scales.latent_dim and tuple(keys.shape[1::2]) != (1, scales.latent_dim):
        raise Missing(
            "this transformers caches the expanded keys and values of latent attention, and the "
            "checkpoint's scale is that of the latent",
            "install a newer transformers",
        )
