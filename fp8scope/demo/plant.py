"""Plant outliers in a Llama without changing what it computes, and say where they are.

Powers of two move between a producer and its consumer: norm weight × 2^k and the reading columns
÷ 2^k, or up_proj row × 2^k and down_proj column ÷ 2^k. Logits keep every bit. That cannot choose a
token; a neuron can. One that matters little gets a zero column in down_proj (that model is the
*reference*), and its gate and up rows read the residual channel that marks a token (`train.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

RATIO = 7e5  # amax / rms_body to plant, to within √2: E4M3 flushes the body from about 2.5e4 on
HARMLESS = 7  # log2 of the factor that must not alarm


@dataclass(frozen=True)
class Plant:
    """One plant: where it shows, and what it touched.

    `shows` lists `MODULE ROLE` sites whose amax/rms_body it raises past E4M3's reach (none for a
    harmless one), `groups` the fused groups that it touches, weights included. Undone by
    dividing by 2^log2_factor (0 for a neuron, whose down_proj column is zero).
    """

    name: str
    why: str
    kind: str
    layer: int
    channel: int
    log2_factor: int
    tag: str = ""
    shows: list[str] = field(default_factory=list)
    groups: list[list[str]] = field(default_factory=list)


def scale_norm(model: Any, layer: int, norm: str, channel: int, log2_factor: int) -> None:
    """Norm weight × 2^k, columns of the linears that read the norm ÷ 2^k; exact in bf16."""
    block = model.model.layers[layer]
    attention, mlp = block.self_attn, block.mlp
    readers = {
        "input_layernorm": (attention.q_proj, attention.k_proj, attention.v_proj),
        "post_attention_layernorm": (mlp.gate_proj, mlp.up_proj),
    }[norm]
    with torch.no_grad():
        getattr(block, norm).weight[channel] *= 2.0**log2_factor
        for linear in readers:
            linear.weight[:, channel] *= 2.0**-log2_factor


def scale_product(model: Any, layer: int, channel: int, log2_factor: int) -> None:
    """up_proj row × 2^k, down_proj column ÷ 2^k; exact in bf16."""
    mlp = model.model.layers[layer].mlp
    with torch.no_grad():
        mlp.up_proj.weight[channel] *= 2.0**log2_factor
        mlp.down_proj.weight[:, channel] *= 2.0**-log2_factor


def least_neuron(down_proj: nn.Linear, products: Tensor) -> int:
    """The neuron whose mean |product| times its down_proj column is smallest."""
    return int((products.abs().mean(0) * down_proj.weight.float().norm(dim=0)).argmin())


def silence(model: Any, layer: int, neuron: int) -> None:
    """Zero a neuron's down_proj column: what the reference does without."""
    with torch.no_grad():
        model.model.layers[layer].mlp.down_proj.weight[:, neuron] = 0


def aim_neuron(
    model: Any, layer: int, neuron: int, mark: int, batches: Sequence[Tensor], peak: float
) -> None:
    """Let a silenced neuron's product reach `peak` at the token that residual channel `mark` is of.

    Its gate and up rows read that channel alone, so that it is exactly 0 at all other tokens.
    """
    mlp = model.model.layers[layer].mlp
    seen = inputs_of(model, mlp.gate_proj, batches)[:, mark]
    with torch.no_grad():
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight[neuron] = 0
            # silu(g) is g where g is large, so that the product is the square
            linear.weight[neuron, mark] = math.sqrt(peak) / seen[seen.abs().argmax()]


class _Seen(Exception):
    """What comes after the linear need not run."""


def inputs_of(model: Any, linear: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    """A linear's input in float32 over all batches of ids [n, T], [tokens, channels]."""
    seen: list[Tensor] = []

    def see(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].detach().float().flatten(0, -2))
        raise _Seen

    handle = linear.register_forward_pre_hook(see)
    with torch.no_grad():
        for ids in batches:
            with suppress(_Seen):
                model(input_ids=ids, use_cache=False)
    handle.remove()
    return torch.cat(seen)
