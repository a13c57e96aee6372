"""Routed experts: what each of them reads, by an experts module of transformers 5 at work.

No hook on a linear sees them: their weights are stacked in one module that runs a grouped matmul
over (token, expert) pairs sorted by expert. For the time of a scan the module's `forward` is
transformers' own grouped one, handed the module in a cover that shows what the activation returns,
which is the input of down_proj; the input of gate_up_proj is an argument. So every layout that
transformers groups is recorded (gated or not, with biases, transposed).

Two records of each matmul: an ordinary site record over all experts, and one that tells experts
apart (`ExpertRecord`: counts, amax, channels, and a histogram in a window of 24 binades). At
gate_up_proj the site record counts each token once: every token goes to top-k experts, so that
counting pairs would only multiply. At down_proj each (token, expert) pair is a row of its own.

Memory of the expert records, inputs and weights, in bytes per expert and layer: 2 × 12.3 Ki for
each of the two matmuls, and 8 per channel and per weight column. 48 layers of 128 experts with
H = 2048 and I = 768 (Qwen3-30B-A3B): 0.58 GB.

With `all_experts` every token runs through every expert, in groups of top-k, to be recorded; the
output, and the tokens that are counted, are those of the routing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.integrations.moe import grouped_mm_experts_forward

from fp8scope.runtime.experts import Experts


@dataclass(frozen=True)
class Pairs:
    """(token, expert) pairs of one pass, sorted by expert as transformers sorts them.

    expert [pairs] int64; order [pairs]: which of the unsorted pairs [tokens, top-k] it is.
    """

    expert: Tensor
    order: Tensor
    per_token: int

    @classmethod
    def of(cls, top_k_index: Tensor) -> Pairs:
        """From the experts of each token, [tokens, top-k]."""
        expert, order = torch.sort(top_k_index.reshape(-1))
        return cls(expert, order, top_k_index.shape[1])

    @property
    def token(self) -> Tensor:
        """The token of each pair."""
        return self.order // self.per_token

    def in_token_order(self, values: Tensor) -> Tensor:
        """Rows [pairs, channels] put in the order of tokens."""
        back = torch.empty_like(self.order)
        back[self.order] = torch.arange(len(self.order), device=self.order.device)
        return values[back]

    def runs(self, kept: Tensor | None = None) -> list[tuple[int, int]]:
        """Each expert with the number of its pairs, in order; of those `kept` [pairs] bool."""
        chosen = self.expert if kept is None else self.expert[kept]
        experts, counts = torch.unique_consecutive(chosen, return_counts=True)
        return list(zip(experts.tolist(), counts.tolist(), strict=True))


class Observer(Protocol):
    """Who is told what a layer of routed experts reads: see `Recorder`."""

    def experts_read(self, experts: Experts, hidden: Tensor) -> None:
        """First, the layer's input [tokens, channels]."""

    def experts_pass(
        self, experts: Experts, hidden: Tensor, products: Tensor, pairs: Pairs
    ) -> None:
        """Once (or for each group of experts) the input [pairs, channels] of down_proj."""

    def experts_routed(self, experts: Experts, top_k_index: Tensor) -> None:
        """Last, the routing [tokens, top-k]."""


class ObservedExperts:
    """A `forward` for the experts' module that tells the observer."""

    def __init__(self, experts: Experts, observer: Observer, all_experts: bool) -> None:
        self._experts = experts
        self._observer = observer
        self._all = all_experts

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """What transformers calls with [tokens, channels] and the routing [tokens, top-k]."""
        self._observer.experts_read(self._experts, hidden_states)
        if self._all:
            for chosen in _groups(self._experts.count, top_k_index):
                weights = top_k_weights.new_zeros(chosen.shape)  # only to be looked at
                self._observed_pass(hidden_states, chosen, weights)
            result = grouped(self._experts.module, hidden_states, top_k_index, top_k_weights)
        else:
            result = self._observed_pass(hidden_states, top_k_index, top_k_weights)
        self._observer.experts_routed(self._experts, top_k_index)
        return result

    def _observed_pass(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        pairs = Pairs.of(top_k_index)

        def show(_: Tensor, products: Tensor) -> None:
            self._observer.experts_pass(self._experts, hidden, products, pairs)

        return grouped(Cover(self._experts.module, show), hidden, top_k_index, top_k_weights)


def grouped(module: Any, *arguments: Tensor) -> Tensor:
    """Transformers' grouped forward of an experts module, or of its cover."""
    result: Tensor = grouped_mm_experts_forward(module, *arguments)
    return result


def _groups(experts: int, top_k_index: Tensor) -> Iterator[Tensor]:
    """Every expert for every token, as many at a time as the routing chooses."""
    tokens, top_k = top_k_index.shape
    for group in torch.split(torch.arange(experts, device=top_k_index.device), top_k):
        yield group.expand(tokens, -1)


class Cover:
    """An experts module that shows what its activation takes, the output of gate_up_proj, and
    what it returns, the input of down_proj. What `show` returns is read instead, if anything.
    """

    def __init__(self, experts: Any, show: Callable[[Tensor, Tensor], Tensor | None]) -> None:
        self._experts = experts
        self._show = show

    def __getattr__(self, name: str) -> Any:
        return getattr(self._experts, name)

    def _apply_gate(self, gate_up: Tensor) -> Tensor:
        return self._shown(gate_up, self._experts._apply_gate(gate_up))

    def act_fn(self, up: Tensor) -> Tensor:
        """Called in place of `_apply_gate` where nothing is gated."""
        return self._shown(up, self._experts.act_fn(up))

    def _shown(self, taken: Tensor, products: Tensor) -> Tensor:
        instead = self._show(taken, products)
        return products if instead is None else instead
