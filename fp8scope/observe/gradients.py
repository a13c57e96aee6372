"""One forward and one backward: every GEMM's input beside the gradient of its output.

The parameters are frozen for the time, so that autograd keeps no input for a weight gradient;
what the hooks keep goes as soon as a GEMM has been shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fp8scope.core.gemms import Gemm
from fp8scope.core.sites import Role
from fp8scope.errors import BadModel
from fp8scope.observe.expert_gradients import ExpertsGradients, Routed
from fp8scope.observe.kvcache import ObservedCache
from fp8scope.observe.labels import sampled_gradient
from fp8scope.observe.untouched import Untouched
from fp8scope.runtime.experts import named_experts
from fp8scope.runtime.forwards import forward_replaced
from fp8scope.runtime.linears import weight_matrix


class Observer(Protocol):
    """Who is shown inputs and gradients; rows are the B·T tokens of the batch, padding included."""

    def gemm(self, gemm: Gemm, x: Tensor, gradients: Sequence[Tensor], into_input: Tensor) -> None:
        """The input [tokens, in], the gradient [tokens, out] of each member's output, and what
        they are together in the input, g W [tokens, in].
        """

    def experts(self, gemm: Gemm, routed: Routed) -> None:
        """The same of a stack of routed experts."""

    def cache(self, layer: int, role: Role, values: Tensor, gradient: Tensor) -> None:
        """K or V [B, heads, T, channels] as a cache receives them, and their gradient."""


@dataclass
class _Waiting:
    """A GEMM whose input has been read, the members that have run, and the gradients so far:
    of each member's output, and what it has sent back to the input.
    """

    x: Untouched
    ran: set[str]
    gradients: dict[str, Tensor]
    sent_back: dict[str, Tensor]


class Gradients:
    """Within `with`, `run` shows the observer all GEMMs; the model is left as it was.

    What the logits do not depend on is not shown; a member of a GEMM that the others leave alone
    in this counts as gradient zero.
    """

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
                        before = self._input_hook(gemm, name)
                        stack.enter_context(
                            module.register_forward_pre_hook(before, with_kwargs=True)
                        )
                        after = self._output_hook(gemm, name)
                        stack.enter_context(module.register_forward_hook(after))
            stacks = {gemm.members[0]: gemm for gemm in self._gemms if gemm.experts}
            for experts in named_experts(self._model).values():
                if experts.first in stacks and experts.last in stacks:
                    first, last = stacks[experts.first], stacks[experts.last]
                    shown = ExpertsGradients(experts, first, last, self._observer)
                    stack.enter_context(forward_replaced(experts.module, shown.forward))
            self._left = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.clear()
        self._left.close()

    def run(self, input_ids: Tensor, uniform: Sequence[Tensor]) -> None:
        """Forward over [B, T], labels drawn by `uniform` (see `labels`), backward.

        Raises BadModel for a linear that runs twice in a forward, and where a tensor that a linear
        has read is written over afterwards.
        """
        self._waiting.clear()
        with torch.enable_grad():
            logits = self._forward(input_ids)
            with torch.no_grad():
                gradient = sampled_gradient(logits.detach(), uniform)
            logits.backward(gradient)
        for gemm in self._gemms:
            waiting = self._waiting.pop(gemm.members, None)
            if waiting and waiting.gradients:
                self._show(gemm, waiting)

    def _forward(self, input_ids: Tensor) -> Tensor:
        cache = ObservedCache(self._observe_cache, self._model.config) if self._cached else None
        output = self._model(input_ids=input_ids, use_cache=self._cached, past_key_values=cache)
        logits: Tensor = output.logits
        return logits

    def _embeddings(self) -> nn.Module:
        embeddings: nn.Module = self._model.get_input_embeddings()
        return embeddings

    def _input_hook(self, gemm: Gemm, name: str) -> Callable[..., Any]:
        """Lets the module read a view of its input, whose gradient is this module's alone."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x: Tensor = args[0] if args else next(iter(kwargs.values()))
            if not x.requires_grad:
                return None
            if gemm.members not in self._waiting:
                self._waiting[gemm.members] = _Waiting(Untouched(x, name), set(), {}, {})
            waiting = self._waiting[gemm.members]
            if name in waiting.ran:
                raise BadModel(
                    f"{name} runs more than once in a forward, and its scores would mix",
                    "--sensitivity none goes without them",
                )
            waiting.ran.add(name)
            own = x.view_as(x)
            own.register_hook(lambda gradient: self._sent_back(gemm, name, gradient))
            if args:
                return (own, *args[1:]), kwargs
            return args, {**kwargs, next(iter(kwargs)): own}

        return hook

    def _output_hook(self, gemm: Gemm, name: str) -> Callable[..., Tensor]:
        def hook(_: nn.Module, __: Any, y: Tensor) -> Tensor:
            if not y.requires_grad:
                return y
            if y._is_view():  # written into, a view loses its hooks
                y = y.clone()
            y.register_hook(lambda gradient: self._arrived(gemm, name, gradient))
            return y

        return hook

    def _arrived(self, gemm: Gemm, name: str, gradient: Tensor) -> None:
        self._waiting[gemm.members].gradients[name] = gradient.flatten(0, -2)

    def _sent_back(self, gemm: Gemm, name: str, gradient: Tensor) -> None:
        waiting = self._waiting[gemm.members]
        waiting.sent_back[name] = gradient.flatten(0, -2)
        if len(waiting.sent_back) == len(gemm.members):
            self._show(gemm, self._waiting.pop(gemm.members))

    def _show(self, gemm: Gemm, waiting: _Waiting) -> None:
        some = next(iter(waiting.gradients.values()))
        ordered = []
        for name in gemm.members:
            outputs = len(weight_matrix(self._model.get_submodule(name)))
            known = waiting.gradients.get(name)
            ordered.append(some.new_zeros(len(some), outputs) if known is None else known)
        with torch.no_grad():
            into_input = reduce(torch.add, waiting.sent_back.values())
            self._observer.gemm(gemm, waiting.x.tensor.flatten(0, -2), ordered, into_input)

    def _observe_cache(self, layer: int, keys: Tensor, values: Tensor) -> None:
        for role, tensor in ((Role.K, keys), (Role.V, values)):
            if tensor.requires_grad:
                kept = Untouched(tensor, f"the cache of layer {layer}")
                tensor.register_hook(self._cache_hook(layer, role, kept))

    def _cache_hook(self, layer: int, role: Role, values: Untouched) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            with torch.no_grad():
                self._observer.cache(layer, role, values.tensor, gradient)

        return hook


def _start_of_graph(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    """A copy: the model may write into it, and autograd forbids that of a leaf."""
    return output if output.requires_grad else output.requires_grad_().clone()
