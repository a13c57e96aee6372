"""One forward and one backward: every GEMM's input beside the gradient of its output.

The parameters are frozen for the time, so that autograd keeps no input for a weight gradient;
what the hooks keep goes as soon as a GEMM has been shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fp8scope.core.gemms import Gemm
from fp8scope.core.sites import Role
from fp8scope.observe.expert_gradients import ExpertsGradients, Routed
from fp8scope.observe.kvcache import ObservedCache
from fp8scope.observe.labels import sampled_gradient
from fp8scope.runtime.experts import named_experts


class Observer(Protocol):
    """Who is shown inputs and gradients; rows are the B·T tokens of the batch, padding included."""

    def gemm(self, gemm: Gemm, x: Tensor, gradient: Tensor) -> None:
        """The input [tokens, in] and the gradient [tokens, out] of all members' outputs."""

    def experts(self, gemm: Gemm, routed: Routed) -> None:
        """The same of a stack of routed experts."""

    def cache(self, layer: int, role: Role, values: Tensor, gradient: Tensor) -> None:
        """K or V [B, heads, T, channels] as a cache receives them, and their gradient."""


@dataclass
class _Waiting:
    """A GEMM whose input has been read, and the gradients that have come back so far."""

    x: Tensor
    version: int
    gradients: dict[str, Tensor]


class Gradients:
    """Within `with`, `run` shows the observer all GEMMs; the model is left as it was."""

    def __init__(
        self, model: nn.Module, gemms: Iterable[Gemm], observer: Observer, *, cached: bool
    ) -> None:
        self._model: Any = model
        self._gemms = list(gemms)
        self._observer = observer
        self._cached = cached
        self._waiting: dict[tuple[str, ...], _Waiting] = {}
        self._left = ExitStack()

    def __enter__(self) -> Gradients:
        with ExitStack() as stack:
            for parameter in self._model.parameters():
                if parameter.requires_grad:
                    parameter.requires_grad_(False)
                    stack.callback(parameter.requires_grad_, True)
            stack.enter_context(self._embeddings().register_forward_hook(_start_of_graph))
            for gemm in self._gemms:
                if not gemm.experts:
                    for name in gemm.members:
                        module = self._model.get_submodule(name)
                        hook = module.register_forward_hook(
                            self._forward_hook(gemm, name), with_kwargs=True
                        )
                        stack.enter_context(hook)
            stacks = {gemm.members[0]: gemm for gemm in self._gemms if gemm.experts}
            for experts in named_experts(self._model).values():
                if experts.first in stacks and experts.last in stacks:
                    first, last = stacks[experts.first], stacks[experts.last]
                    stack.enter_context(ExpertsGradients(experts, first, last, self._observer))
            self._left = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.clear()
        self._left.close()

    def run(self, input_ids: Tensor, uniform: Sequence[Tensor]) -> None:
        """Forward over [B, T], labels drawn by `uniform` (see `labels`), backward."""
        self._waiting.clear()
        with torch.enable_grad():
            logits = self._forward(input_ids)
            with torch.no_grad():
                gradient = sampled_gradient(logits.detach(), uniform)
            logits.backward(gradient)
        self._waiting.clear()  # of linears whose output nothing reads

    def _forward(self, input_ids: Tensor) -> Tensor:
        cache = ObservedCache(self._observe_cache, self._model.config) if self._cached else None
        output = self._model(input_ids=input_ids, use_cache=self._cached, past_key_values=cache)
        logits: Tensor = output.logits
        return logits

    def _embeddings(self) -> nn.Module:
        embeddings: nn.Module = self._model.get_input_embeddings()
        return embeddings

    def _forward_hook(self, gemm: Gemm, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> None:
            x: Tensor = args[0] if args else next(iter(kwargs.values()))
            if not y.requires_grad:
                return
            if name == gemm.members[0]:
                self._waiting[gemm.members] = _Waiting(x.detach(), x._version, {})
            y.register_hook(lambda gradient: self._arrived(gemm, name, gradient))

        return hook

    def _arrived(self, gemm: Gemm, name: str, gradient: Tensor) -> None:
        waiting = self._waiting[gemm.members]
        waiting.gradients[name] = gradient.flatten(0, -2)
        if len(waiting.gradients) == len(gemm.members):
            del self._waiting[gemm.members]
            ordered = [waiting.gradients[member] for member in gemm.members]
            whole = ordered[0] if len(ordered) == 1 else torch.cat(ordered, dim=1)
            with torch.no_grad():
                self._observer.gemm(gemm, waiting.x.flatten(0, -2), whole)

    def _observe_cache(self, layer: int, keys: Tensor, values: Tensor) -> None:
        for role, tensor in ((Role.K, keys), (Role.V, values)):
            if tensor.requires_grad:
                tensor.register_hook(self._cache_hook(layer, role, tensor.detach()))

    def _cache_hook(self, layer: int, role: Role, values: Tensor) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            with torch.no_grad():
                self._observer.cache(layer, role, values, gradient)

        return hook


def _start_of_graph(_: nn.Module, __: Any, output: Tensor) -> None:
    if not output.requires_grad:
        output.requires_grad_()
