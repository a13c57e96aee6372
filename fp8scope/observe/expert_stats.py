"""Statistics that tell the routed experts of a layer apart, of their inputs and weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fp8scope.core.magnitude import Encoding
from fp8scope.observe.rows import part_stats, row_stats
from fp8scope.observe.stats import tensor_encoding
from fp8scope.profile.record import ExpertRecord, ExpertWeightRecord


def count_tokens(record: ExpertRecord, tag: int, chosen: Tensor) -> None:
    """Add the routing [tokens, top-k] of tokens of one tag."""
    experts = chosen.reshape(-1).cpu().numpy()
    record.tokens[tag] += np.bincount(experts, minlength=record.experts)


def add_rows(record: ExpertRecord, tag: int, rows: Tensor, runs: Sequence[tuple[int, int]]) -> None:
    """Add rows [pairs, channels], finite, of one tag: runs of (expert, rows), none empty."""
    parts = part_stats(_windowed(rows), [length for _, length in runs])
    for (expert, _), stats in zip(runs, parts, strict=True):
        record.amax[tag, expert] = max(record.amax[tag, expert], stats.column_amax.max())
        amax = record.channel_amax[expert]
        np.maximum(amax, stats.column_amax, out=amax)
        record.channel_sum_squares[expert] += stats.column_sum_squares.astype(np.float32)
        record.add(expert, stats.histograms[0], int(stats.zeros[0]))


def record_expert_weights(stack: Tensor) -> ExpertWeightRecord:
    """Statistics of each expert's weight of a stack [experts, rows, columns], all finite."""
    experts, rows, columns = stack.shape
    record = ExpertWeightRecord.empty(window_encoding(stack), experts=experts, columns=columns)
    for expert, weight in enumerate(stack.detach()):
        stats = row_stats(_windowed(weight), (rows,))
        record.amax[expert] = stats.column_amax.max()
        record.column_amax[expert] = stats.column_amax
        record.column_sum_squares[expert] = stats.column_sum_squares
        record.add(expert, stats.histograms[0], int(stats.zeros[0]))
    return record


def window_encoding(tensor: Tensor) -> Encoding:
    """The encoding in which a tensor's windows count: fp16 as fp32, whose binades are as bf16's."""
    return tensor_encoding(_windowed(tensor[:0]))


def _windowed(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype is torch.float16 else tensor
