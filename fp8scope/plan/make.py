"""A plan from a profile: solve, then write down what every layer runs in, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fp8scope import __version__
from fp8scope.artefacts.plan import Measured, Plan
from fp8scope.artefacts.plan import Objective as Stated
from fp8scope.core.words import nats
from fp8scope.errors import BadInput
from fp8scope.plan.certainty import certainty
from fp8scope.plan.groups import Groups
from fp8scope.plan.identity import model_id, modules, profile_id
from fp8scope.plan.objective import DEFAULT_PRESET, PRESETS, Limit, Objective
from fp8scope.plan.planner import Choice, Planner
from fp8scope.plan.prediction import points, predicted, summary
from fp8scope.plan.settings import CACHES, PlanSettings
from fp8scope.profile.record import Profile

Factors = dict[str, NDArray[np.float32]]


class PlanMaker:
    """Plans of one profile under one set of wishes.

    Raises BadInput (no sensitivity; a pattern that matches nothing; a limit that cannot be kept; no
    such GPU or preset) and Stale (times of another model).
    """

    def __init__(self, profile: Profile, settings: PlanSettings | None = None) -> None:
        self.profile = profile
        self.settings = settings = settings or PlanSettings()
        cost, self._source = settings.cost(profile)
        self.planner = Planner(profile, cost, settings.asked(profile))
        self.objective, self.stated = self._objective()

    def asking(self, settings: PlanSettings) -> PlanMaker:
        """With other wishes, and what was set by hand; of the same profile and times."""
        other = copy(self)
        other.settings, pinned = settings, self.planner.asked.pinned
        asked = settings.asked(self.profile)
        other.planner = self.planner.under(replace(asked, pinned=pinned))
        other.objective, other.stated = other._objective()
        return other

    def by_hand(
        self, pinned: Mapping[str, str], kv_cache: Literal["bf16", "fp8", "auto"]
    ) -> PlanMaker:
        """With groups set to a precision by hand, and the KV caches; the objective is the same."""
        other = copy(self)
        other.settings = replace(self.settings, kv_cache=kv_cache)
        asked = replace(self.planner.asked, pinned=pinned, cache=CACHES[kv_cache])
        other.planner = self.planner.under(asked)
        other.stated = self.stated.model_copy(update={"kv_cache": kv_cache})
        return other

    def with_budget(self, value: float) -> PlanMaker:
        """With the budget that a preset once came to: with groups pinned it comes to another."""
        other = copy(self)
        if self.stated.preset is not None:
            other.stated = self.stated.model_copy(update={"value": value})
            other.objective = replace(self.objective, value=value)
        return other

    def choose(self, max_kl: float | None = None) -> Choice:
        """The best choice; under a tighter KL budget than was asked for, where one is given."""
        return self.planner.choose(self.under(max_kl))

    def plan(
        self,
        choice: Choice,
        max_kl: float | None = None,
        measured: Mapping[str, Any] | None = None,
        notes: tuple[str, ...] = (),
    ) -> tuple[Plan, Factors]:
        """plan.json of a choice, and the smoothing factors by key.

        max_kl: the budget that it was chosen under, where that is not the one asked for; measured:
        what was measured of it.
        """
        sure = certainty(choice)
        stated = self.stated.model_copy(update={"solved_for": max_kl})
        built = Groups(self.planner, choice, stated, sure)
        groups, (folds, factors) = built.groups(), built.folds()
        precision = {name: group.precision for group in groups for name in group.members}
        said = summary(self.planner, choice, stated, groups)
        if measured and measured["kl_nats"] is not None:
            said += f"; measured {nats(measured['kl_nats'])} nats per token on held-out text"
        plan = Plan(
            fp8scope=__version__,
            model=model_id(self.profile),
            profile=profile_id(self.profile),
            objective=stated,
            cost=self._source,
            summary=said,
            modules=modules(self.profile),
            groups=groups,
            folds=folds,
            factors=None,
            kv_cache=built.caches(),
            ignore=tuple(
                linear.name
                for linear in self.profile.structure.linears
                if precision.get(linear.name, "bf16") == "bf16"
            ),
            predicted=predicted(self.planner, choice.sums),
            frontier=points(self.planner, choice),
            measured=Measured.model_validate(measured) if measured else None,
            notes=(*built.notes(), *notes),
        )
        return plan, factors

    def under(self, max_kl: float | None) -> Objective:
        """What was asked for, or a tighter KL budget."""
        if max_kl is None:
            return self.objective
        if self.objective.limit is not Limit.KL:
            raise BadInput("there is no KL budget to tighten", "plan with --max-kl or a preset")
        return replace(self.objective, value=max_kl)

    def _objective(self) -> tuple[Objective, Stated]:
        asked, planner = self.settings, self.planner
        given = [
            (name, value)
            for name, value in (
                ("max_kl", asked.max_kl),
                ("effective_bits", asked.effective_bits),
                ("max_bf16_share", asked.max_bf16_share),
            )
            if value is not None
        ]
        if len(given) + (asked.preset is not None) > 1:
            raise BadInput(
                "a plan has one objective",
                "give one of --max-kl, --effective-bits, --max-bf16-share and --preset",
            )
        name, value = given[0] if given else ("max_kl", 0.0)
        if not 0 <= value < math.inf:
            raise BadInput(f"{name} is {value:g}", "give a finite number, 0 or more")
        preset = None
        if not given:
            preset = asked.preset or DEFAULT_PRESET
            if preset not in PRESETS:
                raise BadInput(f"there is no preset {preset}", f"one of {', '.join(PRESETS)}")
            value = planner.budget(PRESETS[preset])
        stated = Stated.model_validate(
            {
                "limit": name,
                "value": value,
                "preset": preset,
                "candidates": asked.candidates,
                "kept": asked.kept,
                "excluded": asked.excluded,
                "kv_cache": asked.kv_cache,
            }
        )
        if name == "max_kl":
            return Objective(Limit.KL, value), stated
        bits = value if name == "effective_bits" else 8 + 8 * value
        return planner.bits(bits), stated


def make_plan(profile: Profile, settings: PlanSettings | None = None) -> tuple[Plan, Factors]:
    """The plan of a profile, and the smoothing factors by key: what `write_plan` takes.

    Raises as `PlanMaker`.
    """
    maker = PlanMaker(profile, settings)
    return maker.plan(maker.choose())
