"""Add one micro-batch's tensor at a site to that site's record."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.core.top import Top, merge_top
from fp8scope.errors import BadModel
from fp8scope.observe.rows import RowStats, Workers, pattern_counts, row_stats
from fp8scope.profile.layout import TOP_K
from fp8scope.profile.record import SiteRecord

FIRST, OTHERS = 0, 1  # the two top lists: values at the first token, and at the others


@dataclass(frozen=True)
class Rows:
    """The tokens of one sequence at one site: values [tokens, channels]."""

    sample: int
    values: Tensor


def accumulate(record: SiteRecord, tag: int, sequences: list[Rows], workers: Workers) -> None:
    """Add the sequences, all of one tag, in their order.

    Raises BadModel at the first inf or NaN, naming sample and token, with the record unchanged:
    such a tensor has no amax, so no scale.
    """
    stats = workers.map(row_stats, [rows.values for rows in sequences])
    for rows, one in zip(sequences, stats, strict=True):
        if one.nonfinite:
            position = int(np.flatnonzero(~np.isfinite(one.row_amax))[0])
            raise BadModel(f"{one.nonfinite} inf or NaN (sample {rows.sample}, token {position})")
    for rows, one in zip(sequences, stats, strict=True):
        _add_sequence(record, tag, rows, one)
    _add_token_amax(record, tag, stats)
    if record.heads == 1:
        record.histogram[tag, 0] += sum(one.histogram for one in stats)
        record.zeros[tag, 0] += sum(one.zeros for one in stats)
        record.amax[tag, 0] = record.channel_amax[tag].max()
    else:
        _add_heads(record, tag, sequences, workers)
    record.elements[tag] = record.histogram[tag].sum(axis=-1)


def _add_sequence(record: SiteRecord, tag: int, rows: Rows, one: RowStats) -> None:
    np.maximum(record.channel_amax[tag], one.column_amax, out=record.channel_amax[tag])
    record.channel_sum_squares += one.column_sum_squares
    # a module that runs twice in a forward (shared weights) adds to the same sequence
    before = record.sequence_amax[rows.sample]
    record.sequence_amax[rows.sample] = max(before, one.row_amax.max())
    binades = one.histogram.reshape(one.encoding.binades, -1).sum(axis=1)
    record.sequence_binades[rows.sample] += binades.astype(np.uint32)
    _offer(record, (tag, FIRST), rows, one.row_amax, 0, 1)
    _offer(record, (tag, OTHERS), rows, one.row_amax, 1, len(one.row_amax))


def _offer(
    record: SiteRecord,
    which: tuple[int, int],
    rows: Rows,
    row_amax: NDArray[np.float32],
    start: int,
    stop: int,
) -> None:
    """Let the values at tokens start..stop-1 compete for a place in a top list."""
    row_amax = row_amax[start:stop]
    largest = row_amax.max(initial=0)
    if largest == 0:
        return
    worst_sample = record.top_sample[which][-1]
    if worst_sample >= 0:  # the list is full
        worst = abs(record.top_value[which][-1])
        if largest < worst or (largest == worst and rows.sample > worst_sample):
            return
    tokens = np.sort(np.argsort(-row_amax, kind="stable")[:TOP_K])
    best = largest_values(rows.values[torch.from_numpy(tokens + start)], TOP_K)
    offered = Top(
        best.value,
        np.full(len(best), rows.sample, np.int32),
        (tokens[best.position] + start).astype(np.int32),
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


def _add_token_amax(record: SiteRecord, tag: int, stats: list[RowStats]) -> None:
    amax = torch.from_numpy(np.concatenate([one.row_amax for one in stats]))
    exact = amax.to(getattr(torch, record.encoding.name))
    record.token_amax[tag] += pattern_counts(exact)


def _add_heads(record: SiteRecord, tag: int, sequences: list[Rows], workers: Workers) -> None:
    """K and V: a histogram per KV head, over the whole micro-batch."""
    whole = torch.cat([rows.values for rows in sequences])
    heads = list(whole.view(len(whole), record.heads, -1).unbind(1))
    amax = record.channel_amax[tag].reshape(record.heads, -1).max(axis=1)
    record.amax[tag] = amax
    counted = workers.map(pattern_counts, heads)
    for head, (values, counts) in enumerate(zip(heads, counted, strict=True)):
        record.histogram[tag, head] += counts
        zeros = int(counts[0])
        if zeros and not record.encoding.exact:
            zeros = values.numel() - int(torch.count_nonzero(values))
        record.zeros[tag, head] += zeros
