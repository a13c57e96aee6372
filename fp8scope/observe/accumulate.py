"""Add one micro-batch's tensor at a site to that site's record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.core.magnitude import BINS
from fp8scope.core.top import Top, merge_top
from fp8scope.errors import BadModel
from fp8scope.observe.rows import row_stats
from fp8scope.observe.stats import RowStats
from fp8scope.profile.layout import TOP_K
from fp8scope.profile.record import SiteRecord

SMALLEST = np.float32(1e-45)  # zeros are never listed
FIRST, OTHERS = 0, 1  # the two top lists: values at the first token, and at the others


@dataclass(frozen=True)
class Tokens:
    """The tokens of some sequences at one site, one sequence after the other.

    values [tokens, channels]; `samples` and `lengths` of the sequences.
    """

    values: Tensor
    samples: tuple[int, ...]
    lengths: tuple[int, ...]

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
    stats = row_stats(tokens.values, tokens.lengths, record.heads)
    if stats.nonfinite:
        raise BadModel(_first_nonfinite(tokens, stats))
    np.maximum(record.channel_amax[tag], stats.column_amax, out=record.channel_amax[tag])
    record.channel_sum_squares += stats.column_sum_squares
    record.token_amax[tag] += np.bincount(record.encoding.bins(stats.row_amax), minlength=BINS)
    record.histogram[tag] += stats.histograms
    record.zeros[tag] += stats.zeros
    record.amax[tag] = record.channel_amax[tag].reshape(record.heads, -1).max(1)
    record.elements[tag] += tokens.values.numel() // record.heads
    _add_sequences(record, tag, tokens, stats)


def _add_sequences(record: SiteRecord, tag: int, tokens: Tokens, stats: RowStats) -> None:
    """What is kept per sequence, and each sequence's bid for the top lists."""
    samples = np.array(tokens.samples)
    record.sequence_binades[samples] += stats.binades.astype(np.uint32)
    starts = np.cumsum((0, *tokens.lengths[:-1]))
    others_amax = stats.row_amax.copy()
    others_amax[starts] = 0
    largest = {FIRST: stats.row_amax[starts], OTHERS: np.maximum.reduceat(others_amax, starts)}
    # a module that runs twice in a forward (shared weights) adds to the same sequence
    so_far = record.sequence_amax[samples]
    record.sequence_amax[samples] = np.maximum(so_far, np.maximum(*largest.values()))
    for which, amax in largest.items():
        bids = np.flatnonzero(amax >= max(_floor(record, tag, which), SMALLEST))
        for sequence in bids:
            first, last = starts[sequence], starts[sequence] + tokens.lengths[sequence]
            rows = slice(first, first + 1) if which == FIRST else slice(first + 1, last)
            _offer(
                record,
                (tag, which),
                int(samples[sequence]),
                tokens.values[rows],
                stats.row_amax[rows],
            )


def _floor(record: SiteRecord, tag: int, which: int) -> np.float32:
    """|value| that a newcomer to a top list must reach; 0 while there is room."""
    full = record.top_sample[tag, which, -1] >= 0
    return np.abs(record.top_value[tag, which, -1]) if full else np.float32(0)


def _first_nonfinite(tokens: Tokens, stats: RowStats) -> str:
    row = int(np.flatnonzero(~np.isfinite(stats.row_amax))[0])
    sample, rows = next(pair for pair in tokens.sequences() if row < pair[1].stop)
    return f"{stats.nonfinite} inf or NaN (sample {sample}, token {row - rows.start})"


def _offer(
    record: SiteRecord,
    which: tuple[int, int],
    sample: int,
    values: Tensor,
    row_amax: NDArray[np.float32],
) -> None:
    """Let the values [tokens, channels] of one sequence compete for a place in a top list."""
    floor = _floor(record, *which)
    largest = row_amax.max()
    if largest < floor or (largest == floor and sample > record.top_sample[which][-1]):
        return
    rows = np.flatnonzero(row_amax >= floor)
    rows = np.sort(rows[np.argsort(-row_amax[rows], kind="stable")[:TOP_K]])
    best = largest_values(values[torch.from_numpy(rows)], TOP_K)
    offered = Top(
        best.value,
        np.full(len(best), sample, np.int32),
        (rows[best.position] + which[1]).astype(np.int32),  # the list of others starts at 1
        best.channel,
    )
    record.put_top(*which, merge_top(record.top(*which), offered, TOP_K))


def largest_values(matrix: Tensor, k: int) -> Top:
    """The k largest |values| of a matrix [rows, channels], `position` being the row.

    Ties go to the smaller row, then the smaller channel. The k largest lie in the k rows of
    largest amax, so callers may pass those alone. Zeros are never listed.
    """
    values = matrix.float().cpu().numpy()
    flat = np.abs(values).ravel()
    k = min(k, len(flat))
    threshold = max(np.partition(flat, len(flat) - k)[len(flat) - k], SMALLEST)
    found = np.flatnonzero(flat >= threshold)
    found = found[np.argsort(-flat[found], kind="stable")][:k]
    row, channel = np.divmod(found, values.shape[1])
    return Top(
        values[row, channel],
        np.zeros(len(found), np.int32),
        row.astype(np.int32),
        channel.astype(np.int32),
    )
