"""Sampled labels: drawn by position, from the model's own distribution, without a shift."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fp8scope.observe import labels
from fp8scope.observe.labels import draws, sampled_gradient

DRAWS = 40_000


def _digest(text: str) -> str:
    return text.encode().hex()


def test_draws_depend_on_the_words_and_the_seed_alone() -> None:
    mine = draws(_digest("words"), 20, seed=0)
    assert torch.equal(mine, draws(_digest("words"), 20, seed=0))
    assert torch.equal(mine[:7], draws(_digest("words"), 7, seed=0))
    others = (draws(_digest("others"), 20, seed=0), draws(_digest("words"), 20, seed=1))
    assert all(not torch.isclose(mine, other).any() for other in others)
    assert mine.dtype is torch.float64
    assert ((mine >= 0) & (mine < 1)).all()
    assert len(mine.unique()) == 20


def test_draws_are_uniform() -> None:
    counts = np.bincount((draws(_digest("long"), DRAWS, 0) * 20).int(), minlength=20)
    assert (((counts - DRAWS / 20) ** 2) / (DRAWS / 20)).sum() < 43.8  # χ² of 19 at .001


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gradients_average_to_zero_and_their_covariance_is_fisher_s(dtype: torch.dtype) -> None:
    """E[g] = 0 and E[g gᵀ] = diag(p) - p pᵀ, within 4 standard errors of so many draws."""
    logits = torch.tensor([2.0, -1.0, 0.5, 0.0, -8.0], dtype=dtype)
    p = logits.double().softmax(0)
    uniform = draws(_digest("many"), DRAWS, 0)
    gradient = sampled_gradient(logits.expand(1, DRAWS, 5), [uniform])[0].double()
    assert gradient.dtype is torch.float64
    error = (p * (1 - p) / DRAWS).sqrt()
    rounding = 0 if dtype is torch.float32 else float(torch.finfo(dtype).eps)
    assert ((gradient.mean(0)).abs() < 4 * error + rounding + 1e-7).all()
    covariance = gradient.T @ gradient / DRAWS
    fisher = p.diag() - p[:, None] * p
    assert ((covariance - fisher).abs() < 4 * error.max() + 2 * rounding).all()
    chosen = np.bincount(gradient.argmin(1), minlength=5)
    assert ((chosen - DRAWS * p.numpy()) ** 2 / (DRAWS * p.numpy())).sum() < 18.5  # χ² of 4, .001


def test_a_label_is_of_its_own_position() -> None:
    """Each position is all but certain of another token: one shifted by one would be seen."""
    sure = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.one_hot(sure, 50).float() * 60
    gradient = sampled_gradient(logits, [draws("1", 9, 0), draws("2", 9, 0)])
    assert gradient.abs().max() < 1e-12
    moved = sampled_gradient(logits.roll(1, 1), [draws("1", 9, 0), draws("2", 9, 0)])
    assert moved.abs().max() < 1e-12


def test_it_is_the_gradient_of_the_sampled_loss() -> None:
    logits = torch.randn(2, 6, 11, generator=torch.Generator().manual_seed(0)).requires_grad_()
    numbers = [draws("a", 6, 0), draws("b", 4, 0)]
    gradient = sampled_gradient(logits.detach(), numbers)
    loss = torch.zeros(())
    for row, uniform in enumerate(numbers):
        for position, u in enumerate(uniform):
            p = logits[row, position].softmax(0)
            label = int((p.double().cumsum(0) <= u).sum())
            assert gradient[row, position, label] < 0
            loss = loss - p[label].log()
    (want,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, want)
    assert not gradient[1, 4:].any()


def test_neither_batch_nor_padding_nor_slices_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(0))
    numbers = [draws(digest, length, 0) for digest, length in (("a", 40), ("b", 13), ("c", 1))]
    together = sampled_gradient(logits, numbers)
    for row, uniform in enumerate(numbers):
        alone = sampled_gradient(logits[row : row + 1, : len(uniform)], [uniform])
        assert torch.equal(together[row, : len(uniform)], alone[0])
        assert not together[row, len(uniform) :].any()
    monkeypatch.setattr(labels, "SLICE_ELEMENTS", 16 * 7)
    assert torch.equal(sampled_gradient(logits, numbers), together)


@pytest.mark.parametrize("u", [0.0, 1e-12, 0.5, 1 - 2.0**-53])
def test_a_token_without_probability_is_never_drawn(u: float) -> None:
    """Not at either end, though .9999999999 is 1 in float32: vocabularies are padded with -inf."""
    logits = torch.full((1, 1, 8), -torch.inf)
    logits[..., 2:5] = torch.tensor([0.3, 0.1, 0.2])
    gradient: Tensor = sampled_gradient(logits, [torch.tensor([u], dtype=torch.float64)])
    assert int(gradient[0, 0].argmin()) in {2, 3, 4}
    assert not gradient[0, 0, [0, 1, 5, 6, 7]].any()
    assert gradient.isfinite().all()
