"""The matmuls that an engine runs: which linears read one tensor together, and what folds there.

A fused group is one GEMM, but for routed experts, whose two stacks are one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fp8scope.core.structure import Fold, Structure

USUAL_EXPERTS_PER_TOKEN: Final = 8
"""What most mixtures of experts have, where nobody says."""
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token")


@dataclass(frozen=True)
class Gemm:
    """`members` read one tensor: y = x @ W.T with W their weights one below the other.

    `members` name linears of the group called `group`. `input_fold` can smooth x; its factors go
    into the columns of W. `output_folds` are those whose producer is the member that they are
    under: their factors divide rows of W. `experts` is not 0 for a stack, whose rows fold into the
    other stack of its group.
    """

    group: str
    members: tuple[str, ...]
    input_fold: Fold | None
    output_folds: Mapping[str, Fold]
    experts: int = 0


@dataclass(frozen=True)
class Unit:
    """One fused group: what shares a precision, and the units that smoothing ties to it.

    `readers` are the groups whose smoothing is folded into rows of this one.
    """

    name: str
    gemms: tuple[Gemm, ...]
    readers: tuple[str, ...]

    @property
    def smoothable(self) -> bool:
        """Whether every input can be smoothed."""
        return all(gemm.input_fold is not None for gemm in self.gemms)


def units(structure: Structure) -> list[Unit]:
    """Every fused group but the routers, which no engine quantizes, in module order."""
    linears = {linear.name: linear for linear in structure.linears}
    left_out = routers(structure)
    group_of = {name: group.name for group in structure.groups for name in group.members}
    folds = [fold for fold in structure.folds if fold.takes_factors]
    inputs = {name: fold for fold in folds for name in fold.consumers}
    outputs = {fold.producer: fold for fold in folds if fold.kind == "linear"}
    found = []
    for group in structure.groups:
        members = [name for name in group.members if name not in left_out]
        if not members:
            continue
        stacked = any(linears[name].experts for name in members)
        runs = [(name,) for name in members] if stacked else [tuple(members)]
        gemms = tuple(
            Gemm(
                group.name,
                run,
                inputs.get(run[0]),
                {name: outputs[name] for name in run if name in outputs},
                linears[run[0]].experts,
            )
            for run in runs
        )
        readers = (
            group_of[reader]
            for gemm in gemms
            for fold in gemm.output_folds.values()
            for reader in fold.consumers
        )
        others = tuple(name for name in dict.fromkeys(readers) if name != group.name)
        found.append(Unit(group.name, gemms, others))
    return found


def routers(structure: Structure) -> set[str]:
    """Linears that choose experts, beside a module of as many as they have outputs; and the gate
    of a shared expert there, with its one output.
    """
    counts = {
        _parent(_parent(linear.name)): linear.experts
        for linear in structure.linears
        if linear.experts
    }
    return {
        linear.name
        for linear in structure.linears
        if (beside := counts.get(_parent(linear.name)))
        and linear.out_features in (1, beside)
        and not linear.experts
    }


def experts_per_token(config: Mapping[str, Any]) -> int | None:
    """Of a model's config.json, or its part for text; None where neither says a number above 0."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in _EXPERTS_PER_TOKEN:
            value = part.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
