"""The KL between two models' next-token distributions, by sequence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fp8scope.observe.divergence import kl_by_sequence

LENGTHS = (9, 4, 0)


def logits(seed: int) -> Tensor:
    return torch.randn(3, 9, 7, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("elements", [1, 20, 1 << 24])
def test_it_is_that_of_torch_summed_over_the_text(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fp8scope.observe.divergence.SLICE_ELEMENTS", elements)
    true, other = logits(0), logits(1)
    each = torch.nn.functional.kl_div(
        other.double().log_softmax(-1), true.double().log_softmax(-1),
        reduction="none", log_target=True,
    ).sum(-1)  # fmt: skip
    expected = [float(each[row, :length].sum()) for row, length in enumerate(LENGTHS)]
    found = kl_by_sequence(true, other, LENGTHS)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[2] == 0
    assert np.all(kl_by_sequence(true, true, LENGTHS) == 0)


def test_tokens_that_are_ruled_out_add_nothing() -> None:
    true, other = logits(0), logits(1)
    cut = kl_by_sequence(true[..., :5], other[..., :5], LENGTHS)
    true[..., 5:] = other[..., 5:] = -math.inf
    np.testing.assert_allclose(kl_by_sequence(true, other, LENGTHS), cut, rtol=1e-12)


def test_a_broken_output_is_not_a_number() -> None:
    other = logits(1)
    other[0, 2] = math.nan
    found = kl_by_sequence(logits(0), other, LENGTHS)
    assert np.isnan(found).tolist() == [True, False, False]
