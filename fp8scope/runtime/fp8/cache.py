"""A KV cache in E4M3, with the static scales of a checkpoint: one byte for each number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from fp8scope.errors import Missing
from fp8scope.runtime.fp8.codes import CODES, quantize


@dataclass(frozen=True)
class KVScales:
    """Scales of one layer's keys and values.

    Under latent attention (`latent_dim` above 0) an engine caches one vector, [latent | rotated
    key], with one scale: k, and v equals it.
    """

    k: float
    v: float
    latent_dim: int = 0


if TYPE_CHECKING:
    from transformers import Cache as _Cache
else:
    _Cache = object


class _InCodes(_Cache):
    """What makes a cache of transformers hold E4M3 codes, as bytes: it copies, joins and cuts them
    as it does any numbers. Attention reads them multiplied out, in the dtype of the model, from
    the first token on, in prefill as in decode. Layers without scales are kept as they are.
    """

    def scaled_by(self, scales: Mapping[int, KVScales], device: torch.device | str) -> None:
        """Hold codes from now on. Scales are put on the device once: a CUDA graph cannot."""
        self._latent = {layer: found.latent_dim for layer, found in scales.items()}
        self._scales = {
            layer: tuple(torch.tensor(scale, device=device) for scale in (found.k, found.v))
            for layer, found in scales.items()
        }

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Take keys and values [batch, heads, tokens, channels], and give all kept so far.

        Raises Missing where this transformers expands a latent before it is cached.
        """
        scales = self._scales.get(layer_idx)
        if scales is None:
            kept: tuple[Tensor, Tensor] = super().update(
                key_states, value_states, layer_idx, *args, **kwargs
            )
            return kept
        _check_latent(self._latent[layer_idx], key_states)
        k, v = scales
        keys, values = super().update(
            _codes(key_states, k), _codes(value_states, v), layer_idx, *args, **kwargs
        )
        return _multiplied_out(keys, k, key_states), _multiplied_out(values, v, value_states)


class Fp8Cache(_InCodes, DynamicCache):
    """Grows with its tokens. config: the model's; device: where the model runs."""

    def __init__(
        self, scales: Mapping[int, KVScales], config: Any, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(config=config)
        self.scaled_by(scales, device)


class Fp8StaticCache(_InCodes, StaticCache):
    """Has room for `length` tokens from the start, at addresses that stay, as CUDA graphs ask."""

    def __init__(
        self,
        scales: Mapping[int, KVScales],
        config: Any,
        length: int,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(config=config, max_cache_len=length)
        self.scaled_by(scales, device)


def _codes(x: Tensor, scale: Tensor) -> Tensor:
    return quantize(x, scale).view(torch.uint8)


def _multiplied_out(codes: Tensor, scale: Tensor, like: Tensor) -> Tensor:
    return (codes.view(CODES).float() * scale).to(like.dtype)


def _check_latent(latent_dim: int, keys: Tensor) -> None:
    if latent_dim and tuple(keys.shape[1::2]) != (1, latent_dim):
        raise Missing(
            "this transformers caches the expanded keys and values of latent attention, and the "
            "checkpoint's scale is that of the latent",
            "install a newer transformers",
        )
