"""The gradient that sampled labels send back: one draw per position, from the model's own logits.

With y_t ~ softmax(logits_t) drawn for every position alone, ½·(Σ g·ΔY)² with g the gradient of
-Σ log p(y_t) is an unbiased sample of the KL divergence (to second order) that ΔY causes:
E[(∂ log p(y))²] is the Fisher information, and scores of independent draws are uncorrelated.
Neither HuggingFace's `labels=` (shifted by one) nor one draw for all positions gives that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SLICE_ELEMENTS = 1 << 20


def draws(digest: str, length: int, seed: int) -> Tensor:
    """Uniform numbers in [0, 1) for the positions of one sequence, [length] float64.

    They depend on the sequence's words and the seed alone: not on its batch, nor on padding.
    """
    generator = np.random.default_rng([seed, int(digest, 16)])
    return torch.from_numpy(generator.random(length))


def sampled_gradient(logits: Tensor, uniform: Sequence[Tensor]) -> Tensor:
    """Gradient of -Σ_t log p(y_t) in the logits [B, T, V], in their dtype: p - 1[y].

    uniform: for each row its numbers [length]; positions from there on are padding, with no
    label and no gradient.
    """
    gradient = torch.empty_like(logits)
    step = max(1, SLICE_ELEMENTS // logits.shape[-1])
    for row, numbers in enumerate(uniform):
        for start in range(0, len(numbers), step):
            chosen = slice(start, min(start + step, len(numbers)))
            at = numbers[chosen].to(logits.device)
            probability = logits[row, chosen].float().softmax(dim=-1)
            label = _sample(probability, at)
            probability[torch.arange(len(label), device=label.device), label] -= 1
            gradient[row, chosen] = probability
        gradient[row, len(numbers) :] = 0
    return gradient


def _sample(probability: Tensor, uniform: Tensor) -> Tensor:
    """The label [n] whose interval of the cumulated probability [n, V] holds each number [n]."""
    cumulated = probability.cumsum(dim=-1)
    whole = cumulated[:, -1:]
    below = torch.nextafter(whole, torch.zeros_like(whole))  # .99999999 is 1 in float32
    at = (uniform.to(cumulated.dtype)[:, None] * whole).minimum(below)
    label = torch.searchsorted(cumulated, at, right=True)[:, 0]
    return label.clamp(max=probability.shape[-1] - 1)
