"""The recorder: hooks on a model's linears, blocks and KV cache that fill site records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fp8scope.core.formats import E4M3
from fp8scope.core.schemes import INPUT_BLOCK
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import Structure
from fp8scope.errors import BadModel, Fp8scopeError, Missing
from fp8scope.observe.accumulate import Tokens, accumulate
from fp8scope.observe.expert_stats import add_rows, count_tokens, window_encoding
from fp8scope.observe.experts import ObservedExperts, Pairs
from fp8scope.observe.kvcache import ObservedCache, received
from fp8scope.observe.quantized import errors_by_binade
from fp8scope.observe.sharing import SharedInputs
from fp8scope.observe.stats import tensor_encoding
from fp8scope.profile.record import ExpertRecord, SiteRecord
from fp8scope.runtime.batches import Batch
from fp8scope.runtime.experts import Experts, named_experts, other_experts
from fp8scope.runtime.forwards import forward_replaced
from fp8scope.runtime.linears import named_linears

ERROR_TOKEN_STRIDE = 128  # --record full tries FP8 on tokens s, s+128, … with s = sample % 128


class Recorder:
    """Records every forward of `model` between `with` and its end; the hooks always go.

    `sites`, `aliases` and `experts` are what has been seen so far (those of a partial, to go on
    with it).
    """

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        tags: tuple[str, ...],
        samples: int,
        full: bool = False,
        all_experts: bool = False,
    ) -> None:
        self.sites: dict[Site, SiteRecord] = {}
        self.aliases: dict[Site, Site] = {}
        self.experts: dict[Site, ExpertRecord] = {}
        self.notes: dict[str, None] = {}
        self._model = model
        self._structure = structure
        self._tags = tags
        self._samples = samples
        self._full = full
        self._all_experts = all_experts
        self._shared = SharedInputs()
        self._batch: Batch | None = None
        self._cache_refused = False
        self._ran: set[str] = set()
        self._last = ""  # the linear that has run last in this forward
        self._hooks = ExitStack()
        self._attention = _attention_names(model, structure)
        self._kv_layers = {layer.layer: layer for layer in structure.kv_layers}

    def __enter__(self) -> Recorder:
        with ExitStack() as hooks:
            for hook in self._hook():
                hooks.enter_context(hook)
            self._hooks = hooks.pop_all()
        return self

    def _hook(self) -> Iterator[AbstractContextManager[Any]]:
        for name, module in named_linears(self._model).items():
            yield module.register_forward_pre_hook(self._input_hook(name), with_kwargs=True)
            if self._full and self._in_block(name):
                yield module.register_forward_hook(self._output_hook(Site(name, Role.OUTPUT)))
        head = _logits_linear(self._model) if self._structure.family else None
        if head is not None:  # who knows what an unknown architecture does with its logits
            yield head.register_forward_pre_hook(self._skip_logits, with_kwargs=True)
        for name in self._structure.blocks:
            block = self._model.get_submodule(name)
            yield block.register_forward_hook(self._output_hook(Site(name, Role.RESIDUAL)))
        for experts in named_experts(self._model).values():
            observed = ObservedExperts(experts, self, self._all_experts)
            yield forward_replaced(experts.module, observed.forward)
        for name in other_experts(self._model):
            self.notes[f"the experts of {name} are not recorded: their layout is not known"] = None

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def run(self, batch: Batch, device: torch.device) -> None:
        """One forward over a micro-batch. Raises BadModel at the first inf or NaN."""
        self._batch = batch
        self._shared.forget()
        self._last = ""
        with torch.no_grad():
            try:
                self._forward(batch.input_ids.to(device))
            except Fp8scopeError:
                raise
            except torch.OutOfMemoryError as error:
                raise Missing(
                    f"out of memory on {device} {self._where()}", "lower --batch-tokens"
                ) from error
            except Exception as error:
                raise BadModel(
                    f"the forward fails {self._where()}: {type(error).__name__}: {error}",
                    "see whether the model runs on this text by itself",
                ) from error

    def _forward(self, input_ids: Tensor) -> None:
        if self._cache_refused or getattr(self._model, "config", None) is None:
            self._model(input_ids=input_ids, use_cache=False)
            return
        cache = ObservedCache(self._observe_kv, self._model.config)
        try:
            self._model(input_ids=input_ids, use_cache=True, past_key_values=cache)
        except ValueError:  # a model that takes its own kind of cache alone
            if self._last:
                raise
            self._cache_refused = True
            self.notes["the model takes only its own kind of cache: K and V are not recorded"] = (
                None
            )
            self._forward(input_ids)

    def _where(self) -> str:
        return f"after {self._last}" if self._last else "before the first layer"

    def never_ran(self) -> list[str]:
        """Linears that no forward has called."""
        ran = {site.module for site in (*self.sites, *self.aliases) if site.role is Role.INPUT}
        ran |= self._ran
        return [linear.name for linear in self._structure.linears if linear.name not in ran]

    def _in_block(self, name: str) -> bool:
        """The output of lm_head, the logits, is never cast: recording it would only cost."""
        blocks = self._structure.blocks
        return not blocks or any(name.startswith(f"{block}.") for block in blocks)

    def _input_hook(self, name: str) -> Callable[..., None]:
        site = Site(name, Role.INPUT)

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._observe_input(site, args[0] if args else next(iter(kwargs.values())))

        return hook

    def _observe_input(self, site: Site, tensor: Tensor) -> None:
        self._last = site.module
        self._ran.add(site.module)
        owner = Site(self._shared.owner(tensor, site.module), Role.INPUT)
        if not self._is_alias(site, owner):
            self._observe(site, tensor)

    def experts_read(self, experts: Experts, hidden: Tensor) -> None:
        """What a layer of routed experts reads: [tokens, channels], each token once."""
        self._observe_input(Site(experts.first, Role.INPUT), hidden)

    def experts_pass(
        self, experts: Experts, hidden: Tensor, products: Tensor, pairs: Pairs
    ) -> None:
        """One grouped matmul: products [pairs, channels] is what down_proj reads."""
        self._last = experts.last
        self._ran.add(experts.last)
        first, last = (Site(name, Role.INPUT) for name in (experts.first, experts.last))
        self._observe(last, pairs.in_token_order(products), rows=pairs.per_token)
        if self._batch and len(hidden) == self._batch.input_ids.numel():
            kept = self._batch.real_tokens().to(hidden.device)[pairs.token]
            products = products if kept.all() else products[kept]
            for site, rows in ((first, hidden[pairs.token[kept]]), (last, products)):
                record = self._expert_record(site, experts.count, rows)
                add_rows(record, self._batch.tag, rows, pairs.runs(kept))

    def experts_routed(self, experts: Experts, top_k_index: Tensor) -> None:
        """After the passes: the experts [tokens, top-k] that the router chose."""
        if self._batch and len(top_k_index) == self._batch.input_ids.numel():
            chosen = top_k_index[self._batch.real_tokens().to(top_k_index.device)]
            for name in (experts.first, experts.last):
                count_tokens(self.experts[Site(name, Role.INPUT)], self._batch.tag, chosen)

    def _expert_record(self, site: Site, experts: int, values: Tensor) -> ExpertRecord:
        if site not in self.experts:
            self.experts[site] = ExpertRecord.empty(
                window_encoding(values),
                tags=len(self._tags),
                experts=experts,
                channels=values.shape[1],
            )
        return self.experts[site]

    def _skip_logits(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Nobody reads the logits of a scan: lm_head, once seen, computes the last token alone."""
        last = [tensor[..., -1:, :] for tensor in (*args, *kwargs.values())]
        return tuple(last[: len(args)]), dict(zip(kwargs, last[len(args) :], strict=True))

    def _is_alias(self, site: Site, owner: Site) -> bool:
        if owner not in self.sites:  # unlike its own tensor, recorded: see `_tokens`
            owner = site
        seen = site in self.sites or site in self.aliases
        if seen and self.aliases.get(site, site) != owner:
            raise BadModel(
                f"{site.module} shares its input with another layer than in the batch before",
                "a model that changes its wiring between batches cannot be profiled",
            )
        if owner != site:
            self.aliases[site] = owner
        return owner != site

    def _output_hook(self, site: Site) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._observe(site, output[0] if isinstance(output, tuple) else output)

        return hook

    def _observe_kv(self, layer: int, keys: Tensor, values: Tensor) -> None:
        module = self._attention.get(layer, f"kv_cache.{layer}")
        cached = received(self._kv_layers.get(layer), keys, values)
        if not cached:
            self.notes[
                "the KV cache is not recorded: the model expands its latent before caching"
            ] = None
        for role, tensor in cached.items():
            heads = tensor.shape[1]
            self._observe(Site(module, role), tensor.transpose(1, 2).flatten(2), heads)

    def _observe(self, site: Site, tensor: Tensor, heads: int = 0, rows: int = 1) -> None:
        batch = self._batch
        if batch is None:  # a forward that is not ours
            return
        tokens = _tokens(tensor, batch, rows)
        if tokens is None:
            shape = list(tensor.shape)
            self.notes[f"{site} is not recorded: {shape} is not [batch, tokens, channels]"] = None
            return
        record = self.sites.get(site)
        if record is None:
            record = self.sites[site] = SiteRecord.empty(
                tensor_encoding(tensor),
                tags=len(self._tags),
                samples=self._samples,
                channels=tensor.shape[-1],
                heads=heads,
                errors=self._full and site.role is Role.INPUT,
            )
        try:
            accumulate(record, batch.tag, tokens)
        except BadModel as error:
            raise BadModel(
                f"the {site.role} of {site.module} holds {error.what}, tag {self._tags[batch.tag]}",
                "the forward overflows: try --dtype bfloat16 or float32",
            ) from error
        if record.error_per_token is not None and record.error_per_block is not None:
            sampled = _sampled_tokens(tokens)
            if len(sampled):
                tiles = ((1, sampled.shape[1]), INPUT_BLOCK)
                per_token, per_block = errors_by_binade(sampled, E4M3, tiles)
                record.error_per_token[batch.tag] += per_token
                record.error_per_block[batch.tag] += per_block


def _tokens(tensor: Tensor, batch: Batch, per_token: int) -> Tokens | None:
    """The tokens without the padding; None unless the tensor is [B, T, C] or [B·T·rows, C].

    MLA's kv_b_proj reads its latent as a cache layer keeps it, [B, 1, T, C].
    """
    count, length = batch.input_ids.shape
    flat = count * length * per_token
    if tuple(tensor.shape[:-1]) not in {(count, length), (flat,), (count, 1, length)}:
        return None
    values = tensor.detach().reshape(flat, tensor.shape[-1])
    lengths = tuple(used * per_token for used in batch.lengths)
    if any(used != length for used in batch.lengths):
        padded = values.view(count, length * per_token, -1)
        values = torch.cat([padded[row, :used] for row, used in enumerate(lengths)])
    return Tokens(values, batch.samples, lengths, per_token)


def _sampled_tokens(tokens: Tokens) -> Tensor:
    parts = [
        tokens.values[rows][sample % ERROR_TOKEN_STRIDE :: ERROR_TOKEN_STRIDE]
        for sample, rows in tokens.sequences()
    ]
    return torch.cat(parts)


def _logits_linear(model: nn.Module) -> nn.Linear | None:
    get = getattr(model, "get_output_embeddings", None)
    head = get() if get else None
    return head if isinstance(head, nn.Linear) else None


def _attention_names(model: nn.Module, structure: Structure) -> dict[int, str]:
    """Attention module of each layer index; for an unknown architecture, by `layer_idx`."""
    if structure.kv_layers:
        return {layer.layer: layer.attention for layer in structure.kv_layers}
    names: dict[int, str] = {}
    for name, module in model.named_modules():  # the innermost module that knows its layer
        index = getattr(module, "layer_idx", None)
        if isinstance(index, (int, np.integer)):
            names[int(index)] = name
    return names
