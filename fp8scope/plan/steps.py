"""The steps of a person's work on a plan: any number can be taken back, and done again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fp8scope.artefacts.plan import Predicted
from fp8scope.core.choices import Term
from fp8scope.plan.changes import difference
from fp8scope.plan.make import PlanMaker
from fp8scope.plan.problem import Way

KVCache = Literal["bf16", "fp8", "auto"]


@dataclass(frozen=True)
class Step:
    """The plan at one moment: a way of each cluster, and what was asked for.

    `pins` are the groups that solving again leaves as they are. `solved` is each cluster's way as
    the solver, or the plan that was read, had it; `max_kl` the tighter budget of a measured plan.
    `done` says what led here.
    """

    maker: PlanMaker
    ways: tuple[Way, ...]
    pins: frozenset[str]
    solved: tuple[Way, ...]
    kv_cache: KVCache
    max_kl: float | None
    predicted: Predicted
    done: str = ""

    @property
    def terms(self) -> tuple[Term, ...]:
        """What is quantized."""
        return tuple(term for way in self.ways for term in way.terms)

    @property
    def essence(self) -> tuple[object, ...]:
        """What a plan file tells apart."""
        return frozenset(self.terms), self.pins, self.maker.stated, self.kv_cache, self.max_kl


class Steps:
    """The steps from the first on, and where one stands among them."""

    def __init__(self, first: Step) -> None:
        self._steps, self._at = [first], 0

    @property
    def first(self) -> Step:
        """Where it began."""
        return self._steps[0]

    @property
    def now(self) -> Step:
        """The last that was not undone."""
        return self._steps[self._at]

    def then(self, step: Step) -> str:
        """Go on; what was undone is forgotten. Says what the step does."""
        before = self.now
        self._steps[self._at + 1 :] = [step]
        self._at += 1
        return f"{step.done}; {difference(before.predicted, step.predicted)}"

    def undo(self) -> str:
        """One step back."""
        if not self._at:
            return "there is nothing to undo"
        undone = self.now
        self._at -= 1
        return f"undone: {undone.done}; {difference(undone.predicted, self.now.predicted)}"

    def redo(self) -> str:
        """Do again what was undone last."""
        if self._at + 1 == len(self._steps):
            return "there is nothing to do again"
        before = self.now.predicted
        self._at += 1
        return f"done again: {self.now.done}; {difference(before, self.now.predicted)}"
