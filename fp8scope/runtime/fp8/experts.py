"""Routed experts with E4M3 weights: what `Fp8Linear` is to a linear, over (token, expert) pairs.

Every expert keeps its linears apart, as files do: w1 and w3 of a foreign checkpoint may have
scales of their own, which one stacked GEMM could not express. The activation and the gating are
those of the module that is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fp8scope.runtime.experts import Experts


class Rows(nn.Module):
    """One linear in runs of rows: their outputs [..., rows] laid end to end."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, in] → [tokens, out]."""
        return torch.cat([part(x) for part in self.parts], dim=-1)


class Fp8Experts(nn.Module):
    """In place of an experts module of transformers, called as it is.

    `first` and `last` hold for each expert what runs in place of its slice of gate_up_proj (or
    up_proj) and of down_proj, None where the stack stays as it is. The replaced module loses its
    stacks: the model keeps no second copy. `stacks`: the names of both.
    """

    def __init__(
        self, experts: Experts, first: Sequence[nn.Module] | None, last: Sequence[nn.Module] | None
    ) -> None:
        super().__init__()
        self.stacks = (experts.first, experts.last)
        self.first = nn.ModuleList(first or _slices(experts, experts.first))
        self.last = nn.ModuleList(last or _slices(experts, experts.last))
        self.activation = experts.module
        for stack in (experts.first, experts.last):
            parameter = stack.rpartition(".")[2]
            for name in (parameter, f"{parameter}_bias"):
                self.activation._parameters.pop(name, None)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """[tokens, channels], and the routing [tokens, top-k], → [tokens, channels]."""
        tokens, top_k = top_k_index.shape
        expert, order = torch.sort(top_k_index.reshape(-1), stable=True)
        outputs = hidden_states.new_zeros(len(order), hidden_states.shape[-1])
        chosen, counts = torch.unique_consecutive(expert, return_counts=True)
        pairs = order.split(counts.tolist())
        for number, pair in zip(chosen.tolist(), pairs, strict=True):
            products = self._activate(self.first[number](hidden_states[pair // top_k]))
            outputs[pair] = self._after(self.last[number](products))
        weighted = outputs * top_k_weights.reshape(-1, 1)
        return weighted.view(tokens, top_k, weighted.shape[1]).sum(dim=1).to(hidden_states.dtype)

    def _activate(self, x: Tensor) -> Tensor:
        own = self.activation._apply_gate if self.activation.has_gate else self.activation.act_fn
        activated: Tensor = own(x)
        return activated

    def _after(self, x: Tensor) -> Tensor:
        if not getattr(self.activation, "has_post_expert_norm", False):
            return x
        normed: Tensor = self.activation.post_expert_norm(x)
        return normed


def expert_bias(experts: Experts, stack: str) -> Tensor | None:
    """The biases [experts, out] of a stack, None where it has none."""
    if not experts.module.has_bias:
        return None
    bias: Tensor = getattr(experts.module, f"{stack.rpartition('.')[2]}_bias")
    return bias


def _slices(experts: Experts, stack: str) -> list[nn.Module]:
    """Plain linears that share the stack's memory."""
    weights, biases = experts.stacks()[stack].detach(), expert_bias(experts, stack)
    found: list[nn.Module] = []
    for expert, weight in enumerate(weights):
        rows, columns = weight.shape
        plain = nn.Linear(columns, rows, bias=False, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if biases is not None:
            plain.bias = nn.Parameter(biases[expert].detach(), requires_grad=False)
        found.append(plain)
    return found
