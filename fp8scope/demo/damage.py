"""What FP8 in every linear does to a small model, measured: KL and perplexity per text.

E4M3 per tensor with static scales: amax/448 of a linear's input over all the text, and of the
weights of its fused group, as engines load them. lm_head stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fp8scope.core.formats import E4M3
from fp8scope.runtime.structure import discover


def fake_fp8(x: Tensor, amax: float) -> Tensor:
    """X rounded to E4M3 with scale amax/448 and multiplied back, in x's dtype."""
    scale = max(amax / E4M3.max, 1e-30)
    q = (x.float() / scale).clamp(-E4M3.max, E4M3.max).to(torch.float8_e4m3fn)
    return (q.float() * scale).to(x.dtype)


@contextmanager
def everything_in_fp8(model: Any, batches: Sequence[Tensor]) -> Iterator[None]:
    """Inside, every linear but lm_head reads its input and weight through E4M3."""
    groups = [group.members for group in discover(model).groups if "lm_head" not in group.members]
    linears = {name: model.get_submodule(name) for members in groups for name in members}
    amax = _input_amax(model, linears, batches)
    kept = {name: linear.weight.detach().clone() for name, linear in linears.items()}
    handles = []
    for members in groups:
        largest = max(float(kept[name].abs().max()) for name in members)
        for name in members:
            linears[name].weight.data = fake_fp8(kept[name], largest)
            handles.append(
                linears[name].register_forward_pre_hook(
                    lambda _, args, limit=amax[name]: (fake_fp8(args[0], limit),)
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name, weight in kept.items():
            linears[name].weight.data = weight


def _input_amax(
    model: Any, linears: Mapping[str, nn.Module], batches: Sequence[Tensor]
) -> dict[str, float]:
    amax = dict.fromkeys(linears, 0.0)

    def watch(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            amax[name] = max(amax[name], float(args[0].abs().max()))

        return hook

    handles = [linears[name].register_forward_pre_hook(watch(name)) for name in linears]
    for ids in batches:
        _log_probabilities(model, ids)
    for handle in handles:
        handle.remove()
    return amax


def damage(model: Any, texts: Mapping[str, Sequence[Tensor]]) -> dict[str, dict[str, float]]:
    """Per tag: perplexity as it is and in FP8, and KL(as it is ‖ FP8) in nats per token.

    texts: batches of ids [n, T] by tag. The static scales are those of all of them.
    """
    before = {tag: [_log_probabilities(model, ids) for ids in texts[tag]] for tag in texts}
    with everything_in_fp8(model, [ids for batches in texts.values() for ids in batches]):
        after = {tag: [_log_probabilities(model, ids) for ids in texts[tag]] for tag in texts}
    return {
        tag: {
            "perplexity": _perplexity(before[tag], texts[tag]),
            "perplexity_fp8": _perplexity(after[tag], texts[tag]),
            "kl": _kl(before[tag], after[tag]),
        }
        for tag in texts
    }


def _log_probabilities(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    return F.log_softmax(logits.float(), dim=-1)


def _perplexity(logs: Sequence[Tensor], batches: Sequence[Tensor]) -> float:
    losses = [
        -log[:, :-1].gather(2, ids[:, 1:, None]).flatten()
        for log, ids in zip(logs, batches, strict=True)
    ]
    return math.exp(float(torch.cat(losses).double().mean()))


def _kl(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    each = [(p.exp() * (p - q)).sum(-1).flatten() for p, q in zip(before, after, strict=True)]
    return float(torch.cat(each).double().mean())
