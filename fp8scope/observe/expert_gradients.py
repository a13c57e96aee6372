"""Routed experts in a backward: inputs and output gradients of both stacks, pair by pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fp8scope.core.gemms import Gemm
from fp8scope.errors import BadModel
from fp8scope.observe.experts import Cover, Pairs, grouped
from fp8scope.observe.untouched import Untouched
from fp8scope.runtime.experts import Experts


@dataclass(frozen=True)
class Routed:
    """x [pairs, in] and gradient [pairs, out] of the (token, expert) pairs, sorted by expert."""

    x: Tensor
    gradient: Tensor
    pairs: Pairs


class Observer(Protocol):
    """Who is shown them."""

    def experts(self, gemm: Gemm, routed: Routed) -> None:
        """One stack of one forward and backward."""


class ExpertsGradients:
    """A `forward` for the experts' module after which each backward shows both its GEMMs.

    The gradient of down_proj's output is that of the layer's times the pair's routing weight, so
    that a norm between the two is refused with BadModel.
    """

    def __init__(self, experts: Experts, first: Gemm, last: Gemm, observer: Observer) -> None:
        self._experts = experts
        self._first = first
        self._last = last
        self._observer = observer
        if getattr(experts.module, "has_post_expert_norm", False):
            raise BadModel(
                f"{experts.name} normalises what each expert returns, which is not scored",
                "--sensitivity none goes without the backward pass",
            )

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """What transformers calls with [tokens, channels] and the routing [tokens, top-k]."""
        pairs = Pairs.of(top_k_index)
        hidden = Untouched(hidden_states, self._first.members[0])
        products: list[Untouched] = []

        def show(gate_up: Tensor, product: Tensor) -> None:
            products.append(Untouched(product, self._last.members[0]))
            if gate_up.requires_grad:
                gate_up.register_hook(first_arrived)

        def first_arrived(gradient: Tensor) -> None:
            with torch.no_grad():
                x = hidden.tensor[pairs.token]
                self._observer.experts(self._first, Routed(x, gradient, pairs))

        def last_arrived(gradient: Tensor) -> None:
            with torch.no_grad():
                weights = top_k_weights.detach().reshape(-1)[pairs.order].to(gradient.dtype)
                per_pair = gradient[pairs.token] * weights[:, None]
                self._observer.experts(self._last, Routed(products[0].tensor, per_pair, pairs))

        cover = Cover(self._experts.module, show)
        result = grouped(cover, hidden_states, top_k_index, top_k_weights)
        if result.requires_grad:
            result.register_hook(last_arrived)
        return result
