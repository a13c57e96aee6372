"""Add one micro-batch's tensor at a site to that site's record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.core.top import Top, merge_top
from fp8scope.errors import BadModel
from fp8scope.observe.rows import RowStats, pattern_counts, row_stats
from fp8scope.profile.layout import TOP_K
from fp8scope.profile.record import SiteRecord

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
    stats = row_stats(tokens.values, tokens.lengths)
    if stats.nonfinite:
        raise BadModel(_first_nonfinite(tokens, stats))
    np.maximum(record.channel_amax[tag], stats.column_amax, out=record.channel_amax[tag])
    record.channel_sum_squares += stats.column_sum_squares
    record.token_amax[tag] += _patterns_of(stats.row_amax, record)
    histograms = torch.from_numpy(stats.histograms)
    binades = histograms.view(len(histograms), record.encoding.binades, -1).sum(2).numpy()
    for number, (sample, rows) in enumerate(tokens.sequences()):
        amax = stats.row_amax[rows]
        # a module that runs twice in a forward (shared weights) adds to the same sequence
        record.sequence_amax[sample] = max(record.sequence_amax[sample], amax.max())
        record.sequence_binades[sample] += binades[number].astype(np.uint32)
        sequence = tokens.values[rows]
        _offer(record, (tag, FIRST), sample, sequence[:1], amax[:1], 0)
        _offer(record, (tag, OTHERS), sample, sequence[1:], amax[1:], 1)
    if record.heads == 1:
        record.histogram[tag, 0] += histograms.sum(0).numpy()
        record.zeros[tag, 0] += stats.zeros.sum()
        record.amax[tag, 0] = record.channel_amax[tag].max()
    else:
        _add_heads(record, tag, tokens.values)
    record.elements[tag] += tokens.values.numel() // record.heads


def _first_nonfinite(tokens: Tokens, stats: RowStats) -> str:
    row = int(np.flatnonzero(~np.isfinite(stats.row_amax))[0])
    sample, rows = next(pair for pair in tokens.sequences() if row < pair[1].stop)
    return f"{stats.nonfinite} inf or NaN (sample {sample}, token {row - rows.start})"


def _patterns_of(amax: NDArray[np.float32], record: SiteRecord) -> NDArray[np.int64]:
    return pattern_counts(torch.from_numpy(amax).to(getattr(torch, record.encoding.name)))


def _offer(
    record: SiteRecord,
    which: tuple[int, int],
    sample: int,
    values: Tensor,
    row_amax: NDArray[np.float32],
    first_position: int,
) -> None:
    """Let the values [tokens, channels] of one sequence compete for a place in a top list."""
    floor = np.float32(0)
    largest = row_amax.max(initial=0)
    worst_sample = record.top_sample[which][-1]
    if worst_sample >= 0:  # the list is full
        floor = abs(record.top_value[which][-1])
        if largest < floor or (largest == floor and sample > worst_sample):
            return
    if largest == 0:
        return
    rows = np.flatnonzero(row_amax >= floor)
    rows = np.sort(rows[np.argsort(-row_amax[rows], kind="stable")[:TOP_K]])
    best = largest_values(values[torch.from_numpy(rows)], TOP_K)
    offered = Top(
        best.value,
        np.full(len(best), sample, np.int32),
        (rows[best.position] + first_position).astype(np.int32),
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
    threshold = max(np.partition(flat, len(flat) - k)[len(flat) - k], np.float32(1e-45))
    found = np.flatnonzero(flat >= threshold)
    found = found[np.argsort(-flat[found], kind="stable")][:k]
    row, channel = np.divmod(found, values.shape[1])
    return Top(
        values[row, channel],
        np.zeros(len(found), np.int32),
        row.astype(np.int32),
        channel.astype(np.int32),
    )


def _add_heads(record: SiteRecord, tag: int, values: Tensor) -> None:
    """K and V: a histogram per KV head, over the whole micro-batch."""
    by_head = values.view(len(values), record.heads, -1).unbind(1)
    record.amax[tag] = record.channel_amax[tag].reshape(record.heads, -1).max(axis=1)
    for head, part in enumerate(by_head):
        counts = pattern_counts(part)
        record.histogram[tag, head] += counts
        zeros = int(counts[0])
        if zeros and not record.encoding.exact:
            zeros = part.numel() - int(torch.count_nonzero(part))
        record.zeros[tag, head] += zeros
