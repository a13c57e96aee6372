"""A plan under a person's hands: every change is answered at once, and can be taken back.

What goes together moves together: the members of a fused group, and the groups and caches that
folds tie (`plan.clusters`). Whatever was scored can be had, also what the solver would not choose.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

from fp8scope.artefacts.identity import check_same_model
from fp8scope.artefacts.plan import Objective, Plan, Point, Precision, Predicted
from fp8scope.core.gemms import routers
from fp8scope.core.words import common_prefix
from fp8scope.errors import BadInput, Fp8scopeError, Stale
from fp8scope.plan.changes import (
    WORDS,
    Terms,
    by_group,
    candidate,
    group_change,
    limit,
    many_changes,
)
from fp8scope.plan.cost import BF16
from fp8scope.plan.make import Factors, PlanMaker
from fp8scope.plan.moves import Moves
from fp8scope.plan.planner import Choice
from fp8scope.plan.prediction import points, predicted, predicted_again
from fp8scope.plan.problem import Way
from fp8scope.plan.reasons import BY_HAND
from fp8scope.plan.refused import refusal
from fp8scope.plan.settings import PlanSettings
from fp8scope.plan.steps import KVCache, Step, Steps
from fp8scope.profile.digest import profile_hash
from fp8scope.profile.record import Profile


class Draft:
    """A plan that can be changed.

    plan: what to begin with; None is the best plan for `settings`. `notes` are what a person should
    know of where it comes from. What changes it says what it did, and raises BadInput where it
    refuses, leaving all as it was.

    Raises BadInput as `PlanMaker` (no scores, above all), and Stale where the plan is not of the
    profile's model, or asks for what was not scored.
    """

    def __init__(
        self, profile: Profile, plan: Plan | None = None, settings: PlanSettings | None = None
    ) -> None:
        self.notes: tuple[str, ...] = ()
        maker = self._maker_of(profile, plan) if plan else PlanMaker(profile, settings)
        self._moves = Moves(maker.planner)
        structure = profile.structure
        self._caches = dict.fromkeys(layer.group for layer in structure.kv_layers)
        left = {unit.name for unit in maker.planner.left_out} | routers(structure)
        self._left = left | {g.name for g in structure.groups if left.issuperset(g.members)}
        self._prefix = common_prefix(linear.name for linear in structure.linears)
        self._given = plan if not self.notes else None
        self.steps = Steps(self._first(maker, plan))
        self._saved = self.step.essence

    def _maker_of(self, profile: Profile, plan: Plan) -> PlanMaker:
        remedy = "open the profile that the plan was made from"
        model = plan.model.model_dump()
        check_same_model(model, "the plan", profile.model, "the profile", remedy)
        if plan.profile.profile_hash != profile_hash(profile):
            self.notes = ("the plan is of another profile of this model: numbers are this one's",)
        settings = PlanSettings.of(plan)
        try:
            maker = PlanMaker(profile, settings)
            return maker if self.notes else maker.with_budget(plan.objective.value)
        except Fp8scopeError as error:
            if settings.times is None:
                raise
            self.notes += (f"times are those of a roofline: {error}",)
            return PlanMaker(profile, replace(settings, times=None))

    def _first(self, maker: PlanMaker, plan: Plan | None) -> Step:
        ways = self._moves.split(plan.terms()) if plan else maker.choose().ways
        if ways is None:
            what = "the plan asks for what was not scored in this profile"
            raise Stale(what, "open the profile that the plan was made from")
        groups = plan.groups if plan else ()
        asked: KVCache = maker.settings.kv_cache
        cached = any(name in self._caches for name in _all(ways))
        if asked != "auto":
            asked = "fp8" if cached else "bf16"
        return Step(
            maker=maker,
            ways=tuple(ways),
            pins=frozenset(group.name for group in groups if group.evidence.asked == BY_HAND),
            solved=tuple(ways),
            kv_cache=asked,
            max_kl=plan.objective.solved_for if plan else None,
            predicted=predicted(maker.planner, maker.planner.sums(ways)),
        )

    # ---- what it is

    @property
    def step(self) -> Step:
        """The plan as it is now."""
        return self.steps.now

    @property
    def predicted(self) -> Predicted:
        """What it costs and gives, as plan.json would say."""
        return self.step.predicted

    @property
    def point(self) -> Point:
        """The plan among those that other budgets would buy."""
        quantized = {term.group for term in self.step.terms}
        return Point(
            kl=self.predicted.nats.kl,
            effective_bits=self.predicted.effective_bits,
            step_time_us=self.predicted.step_time_us,
            bf16_groups=sum(n not in quantized for n in self._groups(self.step.maker)),
        )

    @property
    def objective(self) -> Objective:
        """What was asked for."""
        return self.step.maker.stated

    @property
    def changed(self) -> bool:
        """Whether it differs from what was read, or last saved."""
        return self.step.essence != self._saved

    @property
    def cached(self) -> bool:
        """Whether the KV cache is in FP8."""
        return self._cached(self.step)

    @property
    def smooths(self) -> bool:
        """Whether anything is folded into the weights."""
        return any(term.alpha is not None or term.folded is not None for term in self.step.terms)

    def precision(self, name: str) -> Precision | None:
        """What a fused group runs in; of a KV cache fp8_tensor or bf16; None of what is unknown."""
        if name in self._left:
            return BF16
        if name not in self._moves.cluster_of:
            return None
        way = self.step.ways[self._moves.cluster_of[name]]
        return cast(Precision, candidate(by_group(way.terms), name))

    def alone(self, name: str) -> float:
        """Nats per token of a group or cache by itself, as it is; 0 in BF16."""
        number = self._moves.cluster_of.get(name)
        ways = () if number is None else self.step.ways[number].terms
        return sum(self._moves.kl[term] for term in ways if term.group == name)

    def options(self, name: str) -> tuple[Precision, ...]:
        """What a group may be set to; nothing where that is not for a person to say."""
        if name not in self._moves.cluster_of or name in self._caches:
            return ()
        return self._moves.precisions(name, self.step.ways[self._moves.cluster_of[name]])

    # ---- what can be done

    def set(self, name: str, precision: str) -> str:
        """Run a group in another precision, and pin it. What folds tie to it moves where it must,
        as little as can be.
        """
        options, step = self.options(name), self.step
        if precision not in options:
            raise refusal(step.maker.planner, options, name, precision)
        number = self._moves.cluster_of[name]
        old = step.ways[number]
        new = self._moves.nearest(number, old, {name: precision}, step.pins)
        if self.precision(name) == precision or new is None:
            return f"{self._short(name)} is {WORDS[precision]} already"
        before, after = by_group(old.terms), by_group(new.terms)
        moved = {n for n in (*before, *after) if candidate(before, n) != candidate(after, n)}
        done = group_change(name, before, after, step.pins & moved - {name}, self._prefix)
        ways = (*step.ways[:number], new, *step.ways[number + 1 :])
        return self._then(done, ways=ways, pins=step.pins - moved | {name})

    def next(self, name: str) -> str:
        """Set a group to the next of the precisions that it may have."""
        own, options = self.precision(name), self.options(name)
        if own not in options or len(options) == 1:
            raise refusal(self.step.maker.planner, options, name, "fp8_tensor")
        return self.set(name, options[(options.index(own) + 1) % len(options)])

    def set_cache(self, fp8: bool) -> str:
        """Put the KV caches of all layers into FP8, or none."""
        if not self._caches:
            raise BadInput("no KV cache is known of this model")
        if fp8 and not self._moves.caches_known:
            raise BadInput("the KV cache was not scored", "scan again, with the KV cache")
        if self.cached == fp8:
            return f"the KV cache is in {'FP8' if fp8 else 'BF16'} already"
        step = self.step
        ways = self._moves.with_caches(step.ways, fp8, step.pins)
        before, after = by_group(step.terms), _all(ways)
        moved = many_changes(before, after, self._groups(step.maker), self._prefix)
        done = f"KV cache {'BF16 → FP8' if fp8 else 'FP8 → BF16'} in {len(self._caches)} layers"
        done += f", and with it {moved}" if moved else ""
        return self._then(done, ways=ways, kv_cache="fp8" if fp8 else "bf16")

    def pin(self, name: str) -> str:
        """Pin a group to what it runs in, or release it."""
        if not self.options(name):
            raise refusal(self.step.maker.planner, (), name, BF16)
        pins = self.step.pins
        if name in pins:
            return self._then(f"{self._short(name)} is no longer pinned", pins=pins - {name})
        done = f"{self._short(name)} is pinned to {WORDS[self.precision(name) or BF16]}"
        return self._then(done, pins=pins | {name})

    def solve(self, text: str = "", *, keep_pins: bool = True) -> str:
        """Choose anew, under a limit as `PlanSettings.limited` reads it."""
        step = self.step
        pins = step.pins if keep_pins else frozenset()
        pinned = {name: cast(str, self.precision(name)) for name in pins}
        settings = replace(step.maker.settings.limited(text), kv_cache=step.kv_cache)
        asked = step.maker.by_hand(pinned, step.kv_cache).asking(settings)
        ways = asked.choose().ways
        order = [*self._groups(asked), *self._caches]
        said = many_changes(by_group(step.terms), _all(ways), order, self._prefix)
        done = f"solved for {limit(asked.stated)}: {said or 'nothing changes'}"
        maker = asked.by_hand({}, step.kv_cache)
        return self._then(done, maker=maker, ways=ways, solved=ways, pins=pins, max_kl=None)

    # ---- what becomes of it

    def plan(self, step: Step | None = None) -> tuple[Plan, Factors]:
        """The whole plan, as it is now or was at a step, and the smoothing factors by key; takes
        seconds of a large model.

        What was set by hand is said of each group, in the summary and in the notes.
        """
        step = step or self.step
        maker = step.maker.by_hand(self._by_hand(step), step.kv_cache)
        plan, factors = maker.plan(self._choice(step, maker), step.max_kl)
        if self._given is not None and step.essence == self.steps.first.essence:
            return self._given, factors
        return plan, factors

    def frontier(self, step: Step | None = None) -> tuple[Point, ...]:
        """What other budgets would buy, with the KV cache as it is now or was at a step; takes a
        second at first.
        """
        step = step or self.step
        return points(step.maker.planner, self._choice(step, step.maker))

    def saved(self, step: Step) -> None:
        """The plan of this step was written."""
        self._saved = step.essence

    def _by_hand(self, step: Step) -> dict[str, str]:
        """The precision of all that the solver, or the plan that was read, did not choose so."""
        now, solved = by_group(step.terms), _all(step.solved)
        rules = step.maker.planner.rules(self._cached(step))
        return {
            name: candidate(now, name)
            for name in self._groups(step.maker)
            if name in step.pins
            or candidate(now, name) != candidate(solved, name)
            or candidate(now, name) not in rules.allowed(name)
        }

    def _choice(self, step: Step, maker: PlanMaker) -> Choice:
        planner = maker.planner
        problem = planner.problem(self._cached(step))
        return Choice(problem, maker.under(step.max_kl), step.ways, *planner.sums(step.ways))

    def _then(self, done: str, **changes: Any) -> str:
        step = replace(self.step, done=done, **changes)
        sums = step.maker.planner.sums(step.ways)
        return self.steps.then(replace(step, predicted=predicted_again(step.predicted, sums)))

    def _cached(self, step: Step) -> bool:
        return any(term.group in self._caches for term in step.terms)

    def _groups(self, maker: PlanMaker) -> list[str]:
        return [unit.name for unit in maker.planner.decided]

    def _short(self, name: str) -> str:
        return name.removeprefix(self._prefix)


def _all(ways: Iterable[Way]) -> Terms:
    return by_group([term for way in ways for term in way.terms])
