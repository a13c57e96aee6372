"""The KL between two models' next-token distributions, by sequence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fp8scope.observe.divergence import kl_by_sequence, moved

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
    for pair in ((logits(0), other), (other, logits(0))):
        found = kl_by_sequence(*pair, LENGTHS)
        assert np.isnan(found).tolist() == [True, False, False]


@pytest.mark.parametrize("elements", [1, 20, 1 << 24])
def test_all_of_it_in_one_pass(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the last position nothing comes next; the KL is that of `kl_by_sequence`, to the bit."""
    monkeypatch.setattr("fp8scope.observe.divergence.SLICE_ELEMENTS", elements)
    true, other = logits(0), logits(1)
    ids = torch.randint(7, (3, 9), generator=torch.Generator().manual_seed(2))
    found = moved(true, other, ids, LENGTHS)
    assert found.kl.tobytes() == kl_by_sequence(true, other, LENGTHS).tobytes()
    for row, length in enumerate(LENGTHS):
        same = true[row, :length].argmax(-1) == other[row, :length].argmax(-1)
        assert found.agreed[row] == int(same.sum())
        for sums, own in ((found.true_nats, true), (found.other_nats, other)):
            ahead = own[row, : max(length - 1, 0)].double()
            nats = torch.nn.functional.cross_entropy(ahead, ids[row, 1:length], reduction="sum")
            assert sums[row] == pytest.approx(float(nats), rel=1e-12)
    assert found.rows().shape == (4, 3)
