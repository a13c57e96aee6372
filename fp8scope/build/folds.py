"""The smoothing of a plan, folded into the model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fp8scope.artefacts.plan import FoldPlan, Plan
from fp8scope.core.structure import Fold
from fp8scope.runtime.folding import fold


def fold_plan(model: nn.Module, plan: Plan, factors: Mapping[str, NDArray[Any]]) -> int:
    """Fold every fold of `plan` into `model`, in place and for good.

    factors: as `read_factors` gives them. The number of values that lost bits, which power-of-two
    factors cost only where a dtype is narrow. Raises BadModel where a fold does not fit the model
    or its dtype; folds before it have been made then, so that the model is of no more use.
    """
    made = (fold(model, as_fold(each), np.asarray(factors[each.key])) for each in plan.folds)
    return sum(one.inexact for one in made)


def as_fold(planned: FoldPlan) -> Fold:
    """The same as `runtime.folding` takes it."""
    return Fold(
        producer=planned.producer,
        kind=planned.kind,
        rows=planned.rows,
        consumers=planned.consumers,
        block=planned.block,
        repeat=planned.repeat,
    )
