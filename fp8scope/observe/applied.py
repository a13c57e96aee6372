"""Terms applied to a model by fake quantization, and taken back: for measuring what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fp8scope.core.choices import Term
from fp8scope.core.sites import Role
from fp8scope.observe.experts import Cover, Pairs, grouped
from fp8scope.observe.kvcache import ObservedCache
from fp8scope.runtime.experts import Experts, named_experts
from fp8scope.runtime.forwards import forward_replaced
from fp8scope.runtime.linears import is_transposed
from fp8scope.runtime.quantized import QuantizedCache, QuantizedGemm, QuantizedParts


class _Stack(NamedTuple):
    """One of the two GEMMs of a layer's experts, and what is done to it."""

    gemm: QuantizedGemm
    term: Term

    def read(self, x: Tensor, expert: int | None = None) -> Tensor:
        return _read(self.gemm, x, self.term, expert)

    def apply(self, module: Any, back: ExitStack) -> None:
        """Until `back` closes, the stack holds what is quantized, an expert at a time."""
        stored = torch.empty_like(self.gemm.members[0])
        for expert in range(self.gemm.gemm.experts):
            stored[expert] = self.gemm.weights(self.term, expert)[0]
        parameter = self.gemm.gemm.members[0].rpartition(".")[2]
        _set_aside(
            module, parameter, stored.transpose(1, 2) if module.is_transposed else stored, back
        )


class Applied:
    """A model that can be run with any terms applied to it.

    Inside `with applied.terms(…)` weights and inputs of the named groups are what their GEMM would
    read, one GEMM at a time: the parameters are set aside while it runs, so that tied weights stay
    apart and no second copy of a model is held.
    """

    def __init__(
        self,
        model: nn.Module,
        gemms: Mapping[tuple[str, ...], QuantizedGemm],
        caches: Mapping[int, QuantizedCache],
        *,
        cached: bool,
    ) -> None:
        self._model: Any = model
        self._caches = caches
        self._cached = cached
        self._experts = named_experts(model)
        self._gemms: dict[str, list[QuantizedGemm]] = {}
        for gemm in gemms.values():
            self._gemms.setdefault(gemm.gemm.group, []).append(gemm)
        self._layers: dict[int, Term] = {}

    @classmethod
    def of(cls, model: nn.Module, parts: QuantizedParts) -> Applied:
        """With all of the model that can be quantized; its cache where the profile holds one."""
        return cls(model, parts.gemms, parts.caches, cached=bool(parts.caches))

    @torch.no_grad()
    def logits(self, input_ids: Tensor) -> Tensor:
        """Logits [B, T, V] of the model as it is now."""
        cache = None
        if self._cached and self._layers:
            cache = ObservedCache(self._through_cache, self._model.config)
        output = self._model(
            input_ids=input_ids, use_cache=cache is not None, past_key_values=cache
        )
        logits: Tensor = output.logits
        return logits

    @contextmanager
    def terms(self, terms: Iterable[Term]) -> Iterator[None]:
        """Apply them, and take them back at the end, whatever happens."""
        layers = {cache.layer.group: number for number, cache in self._caches.items()}
        stacks: dict[str, _Stack] = {}
        with ExitStack() as back:
            back.callback(self._layers.clear)
            for term in terms:
                if term.group in layers:
                    self._layers[layers[term.group]] = term
                for gemm in self._gemms.get(term.group, []):
                    if gemm.gemm.experts:
                        stacks[gemm.gemm.members[0]] = _Stack(gemm, term)
                    else:
                        self._apply(gemm, term, back)
            self._cover_experts(stacks, back)
            yield

    def _apply(self, gemm: QuantizedGemm, term: Term, back: ExitStack) -> None:
        running = _Running(gemm, term, back.enter_context(ExitStack()))
        for name in gemm.gemm.members:
            module = self._model.get_submodule(name)
            before, after = running.before(name), running.after
            back.enter_context(module.register_forward_pre_hook(before, with_kwargs=True))
            back.enter_context(module.register_forward_hook(after))

    def _cover_experts(self, stacks: Mapping[str, _Stack], back: ExitStack) -> None:
        for experts in self._experts.values():
            first, last = stacks.get(experts.first), stacks.get(experts.last)
            if first or last:
                forward = _expert_forward(experts, first, last)
                back.enter_context(forward_replaced(experts.module, forward))

    def _through_cache(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        term = self._layers.get(layer)
        if term is None:
            return keys, values
        cache = self._caches[layer]
        return (
            cache.quantize(Role.K, keys, term).to(keys.dtype),
            cache.quantize(Role.V, values, term).to(values.dtype),
        )


class _Running:
    """One GEMM in a term: its weights are quantized when it runs and given back after, for a
    second copy of all weights would not fit beside the first.
    """

    def __init__(self, gemm: QuantizedGemm, term: Term, back: ExitStack) -> None:
        self._gemm = gemm
        self._term = term
        self._back = back
        self._weights: dict[str, Tensor] = {}

    def before(self, name: str) -> Callable[..., Any]:
        """The hook of a member: the first to run quantizes all, which share a scale."""

        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if name not in self._weights:
                quantized = zip(self._gemm.members, self._gemm.weights(self._term), strict=True)
                weights = [weight.to(member.dtype) for member, weight in quantized]
                self._weights = dict(zip(self._gemm.gemm.members, weights, strict=True))
            weight = self._weights.pop(name)
            _set_aside(module, "weight", weight.T if is_transposed(module) else weight, self._back)
            if args:
                return (_read(self._gemm, args[0], self._term), *args[1:]), kwargs
            first = next(iter(kwargs))
            return args, {**kwargs, first: _read(self._gemm, kwargs[first], self._term)}

        return hook

    def after(self, *_: Any) -> None:
        """The hook after each member."""
        self._back.close()


def _set_aside(module: nn.Module, name: str, weight: Tensor, back: ExitStack) -> None:
    own = module._parameters[name]
    if own is None:
        raise TypeError(f"{type(module).__name__} has no {name}")
    stored = weight.contiguous().to(own.dtype)
    module._parameters[name] = nn.Parameter(stored, requires_grad=False)
    back.callback(module._parameters.__setitem__, name, own)


def _read(gemm: QuantizedGemm, x: Tensor, term: Term, expert: int | None = None) -> Tensor:
    read = gemm.input(x.flatten(0, -2), term, expert)
    return read.to(x.dtype).view(x.shape)


def _expert_forward(
    experts: Experts, first: _Stack | None, last: _Stack | None
) -> Callable[..., Tensor]:
    def forward(hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        pairs = Pairs.of(top_k_index)

        def show(_: Tensor, products: Tensor) -> Tensor:
            if last is None:
                return products
            runs = pairs.runs()
            parts = products.split([count for _, count in runs])
            read = [last.read(part, expert) for (expert, _), part in zip(runs, parts, strict=True)]
            return torch.cat(read)

        with ExitStack() as back:
            for stack in (first, last):
                if stack:
                    stack.apply(experts.module, back)
            read = hidden_states if first is None else first.read(hidden_states)
            return grouped(Cover(experts.module, show), read, top_k_index, top_k_weights)

    return forward
