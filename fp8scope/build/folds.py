"""The smoothing of a plan, folded into the model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fp8scope.artefacts.plan import FoldPlan, Plan
from fp8scope.core.choices import value_folds
from fp8scope.core.gemms import units
from fp8scope.core.structure import Fold, Structure
from fp8scope.errors import BadInput
from fp8scope.plan.clusters import folds_of
from fp8scope.runtime.folding import fold

_AGAIN = "make it again with fp8scope plan"


def check_folds(plan: Plan, structure: Structure) -> None:
    """Raise BadInput for a fold that is none of the model's, or is planned twice, and for smoothing
    that the plan's scales count on and no fold makes.

    A fold that reaches only some of its readers changes what the model computes.
    """
    planned = {as_fold(each): each.alpha for each in plan.folds}
    strange = next((fold for fold in planned if fold not in structure.folds), None)
    if strange is not None:
        what = f"the plan folds {strange.producer} into {', '.join(strange.consumers)}"
        raise BadInput(f"{what}, which is no fold of this model", _AGAIN)
    if len(planned) < len(plan.folds):
        raise BadInput("the plan makes one fold twice", _AGAIN)
    own = {unit.name: unit for unit in units(structure)}
    asked = folds_of(plan.terms(), own, value_folds(structure))
    lacking = next((fold for fold, alpha in asked.items() if planned.get(fold) != alpha), None)
    if lacking is not None:
        what = f"the plan's scales are those of {', '.join(lacking.consumers)} after smoothing"
        raise BadInput(f"{what}, and it does not fold {lacking.producer}", _AGAIN)


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
