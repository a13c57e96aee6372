"""Statistics of weight matrices: no forward pass needed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fp8scope.core.formats import E4M3
from fp8scope.core.schemes import WEIGHT_BLOCK
from fp8scope.errors import BadModel
from fp8scope.observe.expert_stats import record_expert_weights
from fp8scope.observe.largest import largest_values
from fp8scope.observe.quantized import errors_by_binade
from fp8scope.observe.rows import row_stats
from fp8scope.profile.layout import TOP_K
from fp8scope.profile.record import ExpertWeightRecord, WeightRecord
from fp8scope.runtime.experts import named_stacks
from fp8scope.runtime.linears import named_linears, weight_matrix

Progress = Callable[[int, int], None]


def record_weights(model: nn.Module, full: bool, progress: Progress) -> dict[str, WeightRecord]:
    """One record per linear, by name. `progress(done, total)` counts linears.

    A stack of experts [experts, rows, columns] is one linear with the rows of all its experts,
    one expert after the other. Raises BadModel for a weight that holds inf or NaN, naming it.
    """
    linears, stacks = named_linears(model), named_stacks(model)
    total, records = len(linears) + len(stacks), {}
    for name, module in linears.items():
        records[name] = _record(f"{name}.weight", weight_matrix(module).detach(), full)
        progress(len(records), total)
    for name, stack in stacks.items():  # flattened one by one: a transposed stack is copied
        records[name] = _record(name, stack.detach().flatten(0, 1), full)
        progress(len(records), total)
    return records


def record_experts(model: nn.Module, progress: Progress) -> dict[str, ExpertWeightRecord]:
    """For each stack of experts, by name, what tells them apart. All weights must be finite."""
    stacks = named_stacks(model)
    records = {}
    for done, (name, stack) in enumerate(stacks.items()):
        records[name] = record_expert_weights(stack)
        progress(done + 1, len(stacks))
    return records


def _record(parameter: str, weight: Tensor, full: bool) -> WeightRecord:
    stats = row_stats(weight, (len(weight),))
    if stats.nonfinite:
        raise BadModel(
            f"{parameter} holds {stats.nonfinite} inf or NaN",
            "repair the weights, or use a wider dtype",
        )
    rows = np.arange(len(weight), dtype=np.int32)
    top = largest_values(weight, stats.row_amax, np.zeros_like(rows), rows, TOP_K)
    top_value, top_row, top_column = (np.zeros(TOP_K, t) for t in ("f4", "i4", "i4"))
    top_value[: len(top)], top_column[: len(top)] = top.value, top.channel
    top_row[: len(top)] = top.position
    per_channel = per_block = None
    if full:
        tiles = ((1, weight.shape[1]), WEIGHT_BLOCK)
        per_channel, per_block = errors_by_binade(weight, E4M3, tiles)
    return WeightRecord(
        encoding=stats.encoding,
        elements=np.array([weight.numel()], np.int64),
        zeros=stats.zeros,
        histogram=stats.histograms[0],
        amax=np.array([stats.row_amax.max()], np.float32),
        row_amax=stats.row_amax,
        row_sum_squares=_row_sum_squares(weight),
        column_amax=stats.column_amax,
        column_sum_squares=stats.column_sum_squares,
        top_value=top_value,
        top_row=top_row,
        top_column=top_column,
        error_per_channel=per_channel,
        error_per_block=per_block,
    )


def _row_sum_squares(weight: Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    parts = [block.double().square_().sum(1) for block in weight.split(256)]
    return torch.cat(parts).cpu().numpy()
