"""What FP8 in every linear does to a small model, measured: KL and perplexity per text.

E4M3 per tensor with static scales: amax/448 of a linear's input over all the text, and of the
weights of its fused group, as engines load them. lm_head stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


def fused_linears(model: Any) -> list[list[nn.Linear]]:
    """Every linear but lm_head, beside those that it is fused with."""
    groups = [group.members for group in discover(model).groups if "lm_head" not in group.members]
    return [[model.get_submodule(name) for name in members] for members in groups]


@contextmanager
def watched(linears: Iterable[nn.Linear]) -> Iterator[dict[nn.Linear, float]]:
    """Inside, the amax of what each of them reads is kept."""
    amax = dict.fromkeys(linears, 0.0)

    def see(linear: nn.Linear, args: tuple[Tensor, ...]) -> None:
        amax[linear] = max(amax[linear], float(args[0].abs().max()))

    handles = [linear.register_forward_pre_hook(see) for linear in amax]
    try:
        yield amax
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def everything_in_fp8(
    groups: Sequence[Sequence[nn.Linear]], amax: Mapping[nn.Linear, float]
) -> Iterator[None]:
    """Inside, every linear reads its input, which has this amax, and its weight through E4M3."""
    kept = {linear: linear.weight.detach().clone() for members in groups for linear in members}
    handles = []
    for members in groups:
        largest = max(float(kept[linear].abs().max()) for linear in members)
        for linear in members:
            linear.weight.data = fake_fp8(kept[linear], largest)
            handles.append(
                linear.register_forward_pre_hook(
                    lambda _, args, limit=amax[linear]: (fake_fp8(args[0], limit),)
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for linear, weight in kept.items():
            linear.weight.data = weight


def damage(model: Any, texts: Mapping[str, Sequence[Tensor]]) -> dict[str, dict[str, float]]:
    """Per tag: perplexity as it is and in FP8, and KL(as it is ‖ FP8) in nats per token.

    texts: batches of ids [n, T] by tag. The static scales are those of all of them.
    """
    groups = fused_linears(model)
    with watched(linear for members in groups for linear in members) as amax:
        before = {tag: [_log_probabilities(model, ids) for ids in texts[tag]] for tag in texts}
    with everything_in_fp8(groups, amax):
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
