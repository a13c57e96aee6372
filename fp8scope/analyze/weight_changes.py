"""Which weights differ between two profiles, as after fine-tuning, and what that does to FP8."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fp8scope.analyze.thresholds import DAMAGED_DB
from fp8scope.core.error import quantization_error
from fp8scope.core.formats import E4M3
from fp8scope.profile.record import Profile, WeightRecord

SUMMED = 1e-9
"""Relative difference of two float64 sums of squares of the same numbers, in any order."""
ROUNDED = 2.0**-7
"""The same where one side was rounded to a dtype with fewer bits (bf16: 2^-9 a value)."""


@dataclass(frozen=True)
class WeightChange:
    """A weight that differs. `body_db_*`: body SQNR in E4M3, per tensor.

    `rows_changed` of its `rows` (output channels) differ in amax or RMS. Where A and B were scanned
    in different dtypes, only differences beyond rounding count.
    """

    module: str
    amax_a: float
    amax_b: float
    body_db_a: float
    body_db_b: float
    rows_changed: int
    rows: int

    @property
    def amax_ratio(self) -> float:
        """The amax of B over that of A; inf where A is all zero."""
        return self.amax_b / self.amax_a if self.amax_a else math.inf

    @property
    def newly_damaged(self) -> bool:
        """Is B's body lost in E4M3 where A's was not?"""
        return self.body_db_b < DAMAGED_DB <= self.body_db_a

    @property
    def severity(self) -> tuple[bool, float, float]:
        """Smaller is worse: newly damaged, then growth of amax, then rows."""
        return not self.newly_damaged, -self.amax_ratio, -self.rows_changed / self.rows


def weight_changes(a: Profile, b: Profile, modules: Iterable[str]) -> tuple[WeightChange, ...]:
    """Those of the modules (in both, of one shape) whose weights differ, the worst first."""
    known = a.model.get("weights_hash")
    if known and known == b.model.get("weights_hash"):
        return ()
    changes = (_change(module, a.weights[module], b.weights[module]) for module in modules)
    found = [change for change in changes if change is not None]
    return tuple(sorted(found, key=lambda change: change.severity))


def _change(module: str, a: WeightRecord, b: WeightRecord) -> WeightChange | None:
    alike = a.encoding == b.encoding
    near = SUMMED if alike else ROUNDED
    rows = ~np.isclose(a.row_sum_squares, b.row_sum_squares, rtol=2 * near, atol=0)
    rows |= ~np.isclose(a.row_amax, b.row_amax, rtol=0 if alike else near, atol=0)
    columns = ~np.isclose(a.column_sum_squares, b.column_sum_squares, rtol=2 * near, atol=0)
    counts = alike and not np.array_equal(a.histogram, b.histogram)
    if not (rows.any() or columns.any() or counts):
        return None
    x, y = a.magnitudes(), b.magnitudes()
    return WeightChange(
        module=module,
        amax_a=x.amax,
        amax_b=y.amax,
        body_db_a=quantization_error(x, E4M3).body_sqnr_db,
        body_db_b=quantization_error(y, E4M3).body_sqnr_db,
        rows_changed=int(rows.sum()),
        rows=len(rows),
    )
