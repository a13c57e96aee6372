"""Add one micro-batch's tensor at a site to that site's record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fp8scope.core.magnitude import BINS
from fp8scope.core.top import merge_top
from fp8scope.errors import BadModel
from fp8scope.observe.largest import SMALLEST, largest_values
from fp8scope.observe.rows import row_stats
from fp8scope.observe.stats import RowStats
from fp8scope.profile.layout import TOP_K
from fp8scope.profile.record import SiteRecord

FIRST, OTHERS = 0, 1  # the two top lists: values at the first token, and at the others


@dataclass(frozen=True)
class Tokens:
    """The tokens of some sequences at one site, one sequence after the other.

    values [tokens · per_token, channels], a token's rows (one per routed expert, elsewhere one)
    together; `samples` and `lengths` of the sequences, in rows.
    """

    values: Tensor
    samples: tuple[int, ...]
    lengths: tuple[int, ...]
    per_token: int = 1

    def sequences(self) -> Iterator[tuple[int, slice]]:
        """Each sample with its rows."""
        start = 0
        for sample, length in zip(self.samples, self.lengths, strict=True):
            yield sample, slice(start, start + length)
            start += length


def accumulate(record: SiteRecord, tag: int, tokens: Tokens) -> None:
    """Add sequences of one tag, in their order.

    Raises BadModel at the first inf or NaN, naming sample and token, with the record unchanged:
    such a tensor has no amax, so no scale.
    """
    stats = row_stats(tokens.values, tokens.lengths, max(1, record.heads))
    if stats.nonfinite:
        raise BadModel(_first_nonfinite(tokens, stats))
    np.maximum(record.channel_amax[tag], stats.column_amax, out=record.channel_amax[tag])
    record.channel_sum_squares += stats.column_sum_squares
    record.token_amax[tag] += np.bincount(record.encoding.bins(stats.row_amax), minlength=BINS)
    record.histogram[tag] += stats.histograms.sum(0)
    record.zeros[tag] += stats.zeros.sum()
    record.amax[tag] = record.channel_amax[tag].max()
    record.elements[tag] += tokens.values.numel()
    if record.head_histogram is not None and record.head_zeros is not None:
        record.head_histogram += stats.histograms
        record.head_zeros += stats.zeros
    _add_sequences(record, tag, tokens, stats)


def _add_sequences(record: SiteRecord, tag: int, tokens: Tokens, stats: RowStats) -> None:
    """What is kept per sequence, and the batch's bid for the top lists."""
    samples, lengths = np.array(tokens.samples, np.int32), np.array(tokens.lengths)
    starts = np.cumsum(lengths) - lengths
    # a module that runs twice in a forward (shared weights) adds to the same sequence
    so_far = record.sequence_amax[samples]
    record.sequence_amax[samples] = np.maximum(so_far, np.maximum.reduceat(stats.row_amax, starts))
    record.sequence_binades[samples] += stats.binades.astype(np.uint32)
    sample = np.repeat(samples, lengths)
    row = np.arange(len(sample), dtype=np.int32) - np.repeat(starts, lengths).astype(np.int32)
    position = row // np.int32(tokens.per_token)
    for which, eligible in ((FIRST, position == 0), (OTHERS, position > 0)):
        floor = max(_floor(record, tag, which), SMALLEST)
        rows = np.flatnonzero(eligible & (stats.row_amax >= floor))
        if len(rows):
            offered = largest_values(
                tokens.values[torch.from_numpy(rows).to(tokens.values.device)],
                stats.row_amax[rows],
                sample[rows],
                position[rows],
                TOP_K,
            )
            record.put_top(tag, which, merge_top(record.top(tag, which), offered, TOP_K))


def _floor(record: SiteRecord, tag: int, which: int) -> np.float32:
    """|value| that a newcomer to a top list must reach; 0 while there is room."""
    full = record.top_sample[tag, which, -1] >= 0
    return np.float32(np.abs(record.top_value[tag, which, -1]) if full else 0)


def _first_nonfinite(tokens: Tokens, stats: RowStats) -> str:
    row = int(np.flatnonzero(~np.isfinite(stats.row_amax))[0])
    sample, rows = next(pair for pair in tokens.sequences() if row < pair[1].stop)
    token = (row - rows.start) // tokens.per_token
    return f"{stats.nonfinite} inf or NaN (sample {sample}, token {token})"
