"""Ways of making tokens one after another: eagerly, compiled, the step as one CUDA graph."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticLayer

from fp8scope.runtime.fp8.experts import Fp8Experts
from fp8scope.verify.native.attention import without_mask
from fp8scope.verify.native.engine import Engine

_WARM_STEPS = 3  # before a graph is recorded: libraries make room for themselves


class Generator(Protocol):
    """Makes the likeliest tokens; what a call gives is the caller's until the next one."""

    def prefill(self, ids: Tensor) -> Tensor:
        """Start anew with ids [B, T]: the next token [B, 1]."""

    def decode(self, token: Tensor) -> Tensor:
        """Go on with a token [B, 1]: the one after it."""


class Eager:
    """Operator by operator, with a cache that grows."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def prefill(self, ids: Tensor) -> Tensor:
        """See `Generator`."""
        self._cache = self._engine.cache()
        return self._engine.next_token(ids, self._cache)

    def decode(self, token: Tensor) -> Tensor:
        """See `Generator`."""
        return self._engine.next_token(token, self._cache)


class Compiled:
    """Both by torch.compile. `length`: prompt and answer together.

    The prefill has a cache that grows, so that attention is the causal one without a mask; the step
    one that stays in place, so that it is compiled once. What the first holds is copied to the
    second, within the time of the prefill.

    Windows are wide enough for all tokens, see `stays_in_place`, so that every layer keeps them
    all. transformers' layer for a window counts them by a number of Python's, for which each step
    would be compiled anew, and which stands still in a CUDA graph.
    """

    def __init__(self, engine: Engine, length: int) -> None:
        self._engine = engine
        self._next = torch.compile(engine.next_token, dynamic=False)
        length = max(length, _WARM_STEPS)
        self._static = engine.static_cache(length)
        self._static.layers = [StaticLayer(max_cache_len=length) for _ in self._static.layers]
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def recorded(self) -> bool:
        """Whether the step is one CUDA graph."""
        return self._graph is not None

    def prefill(self, ids: Tensor) -> Tensor:
        """See `Generator`."""
        cache = self._engine.cache()
        with without_mask(self._engine.model):
            token = self._next(ids, cache)
        self._static.reset()
        positions = torch.arange(ids.shape[1], device=ids.device)
        for layer, found in zip(self._static.layers, cache.layers, strict=True):
            # positions: what transformers before 5.1 asks for, and later ones pass over
            layer.update(found.keys, found.values, {"cache_position": positions})
        return token

    def decode(self, token: Tensor) -> Tensor:
        """See `Generator`."""
        if self._graph is None:
            return self._next(token, self._static)
        if token is not self._token:
            self._token.copy_(token)
        self._graph.replay()
        return self._token

    def record(self, batch: int) -> None:
        """From now on the step is one CUDA graph; after a prefill and a step, which compile."""
        token = torch.zeros(batch, 1, dtype=torch.long, device=self._engine.device)
        self._static.reset()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_STEPS):
                self._next(token, self._static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            token.copy_(self._next(token, self._static))
        self._token, self._graph = token, graph


def stays_in_place(engine: Engine, length: int) -> bool:
    """Whether the model's cache can be one that stays in place, `length` tokens long."""
    cache: Any = engine.cache()
    return bool(cache.layers) and all(_holds_all(layer, length) for layer in cache.layers)


def _holds_all(layer: Any, length: int) -> bool:
    if isinstance(layer, DynamicSlidingWindowLayer):
        return int(layer.sliding_window) > length
    return type(layer) is DynamicLayer


def routes_on_cpu(engine: Engine) -> bool:
    """Whether the tokens of FP8 experts are counted on the CPU: every count would be compiled anew,
    up to the compiler's limit, and none can be in a CUDA graph.
    """
    return any(isinstance(module, Fp8Experts) for module in engine.model.modules())
