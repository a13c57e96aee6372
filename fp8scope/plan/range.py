"""Would a fold overflow? What a smoothing factor multiplies must fit into the model's dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.scales import Scales
from fp8scope.core.choices import Term, value_folds
from fp8scope.core.gemms import Gemm, units
from fp8scope.core.structure import Fold
from fp8scope.plan.clusters import folds_of
from fp8scope.profile.record import Profile

LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": 3.4028e38}


class Range:
    """Answers from the largest values that a profile holds; what it has computed it keeps.

    Underflow is left to the build, which sees every weight.
    """

    def __init__(self, profile: Profile, scales: Scales) -> None:
        self._profile = profile
        self._scales = scales
        self._largest = LARGEST[str(profile.settings["dtype"])]
        every = units(profile.structure)
        self._units = {unit.name: unit for unit in every}
        self._values = value_folds(profile.structure)
        self._readers: dict[Fold, Gemm] = {}
        for gemm in (gemm for unit in every for gemm in unit.gemms if self._scales.seen(gemm)):
            if gemm.input_fold is not None:
                self._readers.setdefault(gemm.input_fold, gemm)
        self._known: dict[tuple[Fold, float], bool] = {}

    def holds(self, term: Term) -> bool:
        """Whether all that the folds of a term multiply or divide stays finite."""
        asked = folds_of([term], self._units, self._values)
        return all(self._fold_holds(fold, alpha) for fold, alpha in asked.items())

    def _fold_holds(self, fold: Fold, alpha: float) -> bool:
        if (fold, alpha) not in self._known:
            self._known[fold, alpha] = self._largest_after(fold, alpha) <= self._largest
        return self._known[fold, alpha]

    def _largest_after(self, fold: Fold, alpha: float) -> float:
        """The largest |x| and |W| of what a fold touches, once it is folded."""
        factors = self._scales.factors(fold, alpha)
        columns = fold.on_columns(factors)
        reached = [self._scales.input_amax(self._readers[fold], alpha)]
        for name in fold.consumers:
            if name in self._profile.weights:
                reached.append(_largest(self._column_amax(name), columns))
        producer = self._profile.weights.get(fold.producer)
        if producer is not None and factors.ndim == 1:
            rows = [producer.row_amax[start:stop] for start, stop in fold.rows]
            reached.append(_largest(np.concatenate(rows), 1 / factors))
        return max(reached)

    def _column_amax(self, name: str) -> NDArray[np.float32]:
        stacked = self._profile.expert_weights.get(name)
        return stacked.column_amax if stacked else self._profile.weights[name].column_amax


def _largest(amax: NDArray[np.float32], factors: NDArray[Any]) -> float:
    return float((amax.astype(np.float64) * factors).max())
