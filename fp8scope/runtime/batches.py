"""Sequences of a calibration, in the micro-batches a forward pass takes.

The plan depends on the calibration alone, so that a resumed scan sees the same micro-batches in
the same order, and its float sums come out bit-identical.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import torch
from torch import nn

from fp8scope.core.structure import Structure
from fp8scope.errors import BadInput
from fp8scope.runtime.text import Calibration


@dataclass(frozen=True)
class Batch:
    """Sequences of one tag, right-padded to the longest.

    `tag` is an index into `Calibration.tags`, `samples` holds the `Sample.index` of each row,
    `input_ids` is int64 [B, T], `lengths` the tokens of each row that are text.

    Padding on the right needs no attention mask in a causal model: no token sees a later one, so
    the text before the padding computes what it would alone (but see `takes_padding`). The
    padding itself gives numbers too: statistics must ignore positions ≥ length.
    """

    tag: int
    samples: tuple[int, ...]
    input_ids: torch.Tensor = field(compare=False)
    lengths: tuple[int, ...]

    def real_tokens(self) -> torch.Tensor:
        """Which of the B·T positions are text, [B·T] bool."""
        position = torch.arange(self.input_ids.shape[1])
        return (position < torch.tensor(self.lengths)[:, None]).flatten()


def takes_padding(model: nn.Module, structure: Structure) -> bool:
    """Whether sequences of unequal length may share a batch without changing each other.

    Not where the longest row chooses the rotary factors of all (`dynamic` and `longrope`), not
    where tokens see later ones, and not in an architecture that is not known: it may do either,
    or put the sequence first.
    """
    if structure.family is None:
        return False
    config: Any = model.config  # a known architecture has one
    text = config.get_text_config()
    if getattr(text, "use_bidirectional_attention", False):
        return False
    stated = [getattr(text, name, None) for name in ("rope_parameters", "rope_scaling")]
    ropes = [rope for rope in stated if isinstance(rope, Mapping)]
    ropes += [rope for by_kind in ropes for rope in by_kind.values() if isinstance(rope, Mapping)]
    kinds = {rope.get(name) for rope in ropes for name in ("rope_type", "type")}
    return not kinds & {"dynamic", "longrope"}


def plan_batches(
    calibration: Calibration,
    batch_tokens: int = 4096,
    *,
    padding: bool = True,
    only: Collection[int] | None = None,
) -> tuple[tuple[int, ...], ...]:
    """Group the samples into micro-batches: tuples of `Sample.index`, each sample exactly once.

    A batch holds samples of one tag and at most `batch_tokens` positions, padding included; a
    longer sample is a batch by itself. Samples are sorted by length, longest first, so that
    little is padded; without `padding` only samples of one length share a batch. The tags take
    turns, so that a scan cut short has seen all of them. `only` leaves out all other samples.
    """
    if batch_tokens < 1:
        raise BadInput(f"a batch of {batch_tokens} tokens holds nothing", "give 1 or more")
    lengths = [len(sample.tokens) for sample in calibration.samples]
    by_tag: list[list[tuple[int, ...]]] = []
    for tag in range(len(calibration.tags)):
        mine = [
            sample.index
            for sample in calibration.samples
            if sample.tag == tag and (only is None or sample.index in only)
        ]
        mine.sort(key=lambda index: -lengths[index])  # stable: equal lengths stay in text order
        batches: list[tuple[int, ...]] = []
        start = 0
        while start < len(mine):
            longest = lengths[mine[start]]
            rows = mine[start : start + max(1, batch_tokens // longest)]
            if not padding:
                rows = [index for index in rows if lengths[index] == longest]
            batches.append(tuple(rows))
            start += len(rows)
        by_tag.append(batches)
    turns = zip_longest(*by_tag, fillvalue=())
    return tuple(batch for batch in chain.from_iterable(turns) if batch)


def make_batch(calibration: Calibration, indices: Sequence[int]) -> Batch:
    """Build one planned batch on the CPU. Padding is token 0, which every model has.

    Raises ValueError when there are no samples, or samples of several tags.
    """
    samples = [calibration.samples[index] for index in indices]
    tags = {sample.tag for sample in samples}
    if len(tags) != 1:
        raise ValueError(f"a batch has samples of one tag, not of {len(tags)}")
    lengths = tuple(len(sample.tokens) for sample in samples)
    input_ids = np.zeros((len(samples), max(lengths)), np.int64)
    for row, sample in zip(input_ids, samples, strict=True):
        row[: len(sample.tokens)] = sample.tokens
    return Batch(
        tag=tags.pop(),
        samples=tuple(sample.index for sample in samples),
        input_ids=torch.from_numpy(input_ids),
        lengths=lengths,
    )
