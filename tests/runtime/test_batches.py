from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fp8scope.errors import BadInput
from fp8scope.runtime.batches import make_batch, plan_batches, takes_padding
from fp8scope.runtime.structure import discover
from fp8scope.runtime.text import Calibration, Sample
from tests import models
from tests.models import LONGROPE

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
lengths_of_tags = st.lists(st.lists(st.integers(2, 50), min_size=1, max_size=12), max_size=4)


def calibration(lengths: list[list[int]]) -> Calibration:
    """Samples of the given lengths per tag; every token is the sample's index + 1."""
    samples: list[Sample] = []
    for tag, of_tag in enumerate(lengths):
        for length in of_tag:
            index = len(samples)
            tokens = np.full(length, index + 1, dtype=np.int32)
            tokens.flags.writeable = False
            samples.append(Sample(index, tag, 0, 1, index, tokens, f"{index:016x}"))
    tags = tuple(f"tag{i}" for i in range(len(lengths)))
    return Calibration(tags, (), tuple(samples), 50, (512, 50), 0, (), "")


@given(lengths_of_tags, st.integers(1, 200))
def test_batches_partition_the_samples_within_their_size(
    lengths: list[list[int]], batch_tokens: int
) -> None:
    text = calibration(lengths)
    plan = plan_batches(text, batch_tokens)
    assert sorted(index for batch in plan for index in batch) == list(range(len(text.samples)))
    for indices in plan:
        batch = make_batch(text, indices)
        rows, width = batch.input_ids.shape
        assert {text.samples[index].tag for index in indices} == {batch.tag}
        assert rows * width <= batch_tokens or rows == 1
        assert width == max(batch.lengths)
        assert batch.samples == indices
        for row, index, length in zip(batch.input_ids, indices, batch.lengths, strict=True):
            assert row.tolist() == [index + 1] * length + [0] * (width - length)


@given(lengths_of_tags, st.integers(1, 200))
def test_an_interrupted_scan_has_seen_the_tags_evenly(
    lengths: list[list[int]], batch_tokens: int
) -> None:
    text = calibration(lengths)
    plan = [text.samples[batch[0]].tag for batch in plan_batches(text, batch_tokens)]
    for stop in range(len(plan)):
        seen, rest = plan[:stop], set(plan[stop:])
        still = [seen.count(tag) for tag in rest]
        assert not still or max(seen.count(t) for t in set(plan)) - min(still) <= 1


def test_long_samples_come_first_and_equal_ones_in_order() -> None:
    text = calibration([[5, 9, 5, 9, 5], [3]])
    assert plan_batches(text, batch_tokens=18) == ((1, 3), (5,), (0, 2, 4))


@given(lengths_of_tags, st.integers(1, 200))
def test_without_padding_a_batch_is_of_one_length(
    lengths: list[list[int]], batch_tokens: int
) -> None:
    text = calibration(lengths)
    plan = plan_batches(text, batch_tokens, padding=False)
    assert sorted(index for batch in plan for index in batch) == list(range(len(text.samples)))
    for batch in plan:
        assert len({(text.samples[i].tag, len(text.samples[i].tokens)) for i in batch}) == 1
        assert len(batch) == 1 or len(batch) * len(text.samples[batch[0]].tokens) <= batch_tokens


def test_without_padding_rows_of_one_length_share_a_batch() -> None:
    text = calibration([[5, 9, 5, 9, 5], [5]])
    assert plan_batches(text, 18, padding=False) == ((1, 3), (5,), (0, 2, 4))
    assert plan_batches(text, 40, padding=False) == ((1, 3), (5,), (0, 2, 4))
    assert plan_batches(text, 45) == ((1, 3, 0, 2, 4), (5,))


@pytest.mark.parametrize(
    ("name", "changes", "padded"),
    [
        ("llama", {}, True),
        ("gemma3_text", {}, True),
        ("gpt2", {}, True),
        ("phi3", {"rope_parameters": LONGROPE}, False),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            False,
        ),
        (models.UNKNOWN, {}, False),
    ],
)
def test_who_takes_padding(name: str, changes: dict[str, Any], padded: bool) -> None:
    model = models.build(name, **changes)
    assert takes_padding(model, discover(model)) == padded


def test_a_batch_is_int64_and_writable() -> None:
    batch = make_batch(calibration([[3, 2]]), (0, 1))
    assert batch.input_ids.dtype == torch.int64
    assert batch.input_ids.tolist() == [[1, 1, 1], [2, 2, 0]]
    assert batch.lengths == (3, 2)


def test_mixed_tags_and_empty_batches_are_refused() -> None:
    text = calibration([[3], [3]])
    with pytest.raises(ValueError, match="one tag, not of 2"):
        make_batch(text, (0, 1))
    with pytest.raises(ValueError, match="one tag, not of 0"):
        make_batch(text, ())
    with pytest.raises(BadInput, match="a batch of 0 tokens"):
        plan_batches(text, 0)
