"""Two estimates of one KL reconciled: that which squares the score of each token, and that which
squares the sum over a sequence.

The first has little noise, but leaves out how the errors of two tokens work together; the second is
unbiased to second order, and noisy. What lies between them is known by kind. An error in a key or a
value acts on all tokens to come, so that groups which write the KV cache differ, and each by
itself; elsewhere the two are nearly the same. In three small trained models (five seeds each)
measured over the first was 1.10 ± .19 there, and 1.02 ± .04 elsewhere. So the first is multiplied
by the mean ratio of its kind, and by its own as far as the noise allows beside the kind's spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from typing import NamedTuple

import numpy as np
from numpy.linalg import norm
from numpy.typing import NDArray

from fp8scope.core.choices import Kind, Row
from fp8scope.core.structure import Structure

Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

TINY = 1e-200
"""Nats that nothing can be told from."""


class Spread(NamedTuple):
    """Standard deviation of a row's ratio about the mean of its kind, and how far that mean may
    plausibly be from 1, noise apart.
    """

    rows: float
    mean: float


SPREADS = (Spread(rows=0.05, mean=0.1), Spread(rows=0.18, mean=0.15))
"""Of rows elsewhere, and of those that write the KV cache."""


@dataclass(frozen=True)
class Forms:
    """By row: what the first form is to be multiplied by, the relative standard deviation of what
    is left, and whether it writes the KV cache; and of both kinds the relative error of the mean.
    """

    ratio: Float64
    spread: Float64
    cached: Bools
    mean_error: tuple[float, float]

    def doubt(self, rows: Sequence[int], kl: Float64) -> float:
        """Standard error of the sum of estimates `kl` of rows, noise apart; NaN if one is none."""
        chosen = list(rows)
        if not np.isfinite(kl).all():
            return np.nan
        if len(chosen) == 1:  # what thousands of rows are asked for one by one
            mean_error = self.mean_error[int(self.cached[chosen[0]])]
            return float(abs(kl[0]) * hypot(self.spread[chosen[0]], mean_error))
        means = [
            self.mean_error[kind] * kl[self.cached[chosen] == bool(kind)].sum() for kind in (0, 1)
        ]
        return float(norm([norm(self.spread[chosen] * kl), *means]))


def reconcile(
    rows: Sequence[Row], token: Float64, sequence: Float64, structure: Structure
) -> Forms:
    """token, sequence: nats of both forms, [rows, sequences]."""
    cached = _write_cache(rows, structure)
    ratio, spread, errors = np.ones(len(rows)), np.zeros(len(rows)), [0.0, 0.0]
    alone = np.array([row.kind is Kind.GROUP and row.terms[0].folded is None for row in rows], bool)
    for kind, expected in enumerate(SPREADS):
        mine = cached == bool(kind)
        groups = mine & alone
        mean, errors[kind] = _mean_ratio(token[groups], sequence[groups], expected.mean)
        own, spread[mine] = _own_ratios(token[mine] * mean, sequence[mine], expected.rows)
        ratio[mine] = mean * own
    return Forms(ratio, spread, cached, (errors[0], errors[1]))


def _write_cache(rows: Sequence[Row], structure: Structure) -> Bools:
    """Rows with a term whose errors stay in the KV cache: the cache itself, and the groups of an
    attention but for that of its output projection, which reads the values.
    """
    values = {name for fold in structure.folds if fold.kind == "linear" for name in fold.consumers}
    attentions = tuple(f"{layer.attention}." for layer in structure.kv_layers)
    writers = {layer.group for layer in structure.kv_layers}
    for group in structure.groups:
        inside = [name for name in group.members if name.startswith(attentions)]
        if attentions and inside and not values.intersection(inside):
            writers.add(group.name)
    return np.array([any(term.group in writers for term in row.terms) for row in rows], bool)


def _mean_ratio(token: Float64, sequence: Float64, expected: float) -> tuple[float, float]:
    """Mean over rows of sequence / token, drawn towards 1 by its error; and that error, relative.

    `expected`: how far from 1 it may plausibly be. An empirical Bayes estimate, so that a few
    sequences change nothing.
    """
    total = token.sum(axis=1, keepdims=True)
    used = np.isfinite(total[:, 0]) & np.isfinite(sequence).all(axis=1) & (total[:, 0] > TINY)
    if not used.any() or token.shape[1] < 2:
        return 1.0, expected
    # what each sequence adds to the mean ratio, less what it would at a ratio of 1
    added = ((sequence[used] - token[used]) / total[used]).mean(axis=0)
    error = float(np.sqrt(len(added) * added.var(ddof=1)))
    weight = expected**2 / (expected**2 + error**2)
    mean = 1 + weight * float(added.sum())
    return mean, float(np.sqrt(weight)) * error / mean


def _own_ratios(token: Float64, sequence: Float64, expected: float) -> tuple[Float64, Float64]:
    """For each row sequence / token, drawn to 1 by its own noise, and what remains of its spread.

    The mean of a normal prior (1, `expected`) and the observed ratio, and its standard deviation
    (Gelman et al., Bayesian Data Analysis, 3rd ed., 2.5).
    """
    ratio, spread = np.ones(len(token)), np.full(len(token), expected)
    total, count = token.sum(axis=1), token.shape[1]
    used = np.isfinite(total) & np.isfinite(sequence).all(axis=1) & (total > TINY)
    if count > 1 and used.any():
        observed = sequence[used].sum(axis=1) / total[used]
        residuals = sequence[used] - observed[:, None] * token[used]
        noise = count / (count - 1) * ((residuals / total[used, None]) ** 2).sum(axis=1)
        # of a few sequences the residuals say little: never less than sampled labels alone make
        noise = np.maximum(noise, 2 / count)
        weight = expected**2 / (expected**2 + noise)
        ratio[used] = 1 + weight * (observed - 1)
        spread[used] = expected * np.sqrt(1 - weight)
    return ratio, spread
