"""The groups, folds and caches of a plan, with the numbers behind each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.cause import Cause, SiteCause
from fp8scope.analyze.groups import group_cause
from fp8scope.analyze.ratios import Nats
from fp8scope.artefacts.plan import Cache, Evidence, FoldPlan, Group, Objective, Scale
from fp8scope.core.choices import Term, value_folds
from fp8scope.core.formats import E4M3
from fp8scope.core.gemms import Gemm, Unit, routers
from fp8scope.core.schemes import CANDIDATES
from fp8scope.core.sites import Role
from fp8scope.core.words import common_prefix
from fp8scope.plan.certainty import Resampled
from fp8scope.plan.clusters import PLAIN, folds_of
from fp8scope.plan.cost import BF16
from fp8scope.plan.planner import Choice, Planner
from fp8scope.plan.prediction import by_hand, cache_offer, doubts
from fp8scope.plan.reasons import BY_HAND, How, bf16_reason, fp8_reason, instead

Float32 = NDArray[np.float32]


class Groups:
    """What a choice means for each group, fold and cache."""

    def __init__(
        self, planner: Planner, choice: Choice, objective: Objective, sure: Resampled
    ) -> None:
        self._planner, self._choice = planner, choice
        self._objective, self._sure = objective, sure
        self._profile = planner.profile
        self._scales = planner.scales
        self._terms: Mapping[str, Term] = {term.group: term for term in choice.terms}
        self._units = {unit.name: unit for unit in (*planner.decided, *planner.left_out)}
        values = value_folds(planner.profile.structure)
        self._folds = folds_of(choice.terms, self._units, values)
        self._prefix = common_prefix(linear.name for linear in self._profile.structure.linears)

    def groups(self) -> tuple[Group, ...]:
        """Every fused group, routers too, in module order."""
        left = routers(self._profile.structure)
        found = []
        for group in self._profile.structure.groups:
            unit = self._units.get(group.name)
            found.append(self._group(unit) if unit else _router(group.name, group.members))
            if unit and (rest := tuple(name for name in group.members if name in left)):
                found.append(_router(", ".join(rest), rest))
        return tuple(found)

    def folds(self) -> tuple[tuple[FoldPlan, ...], dict[str, Float32]]:
        """The folds in model order, and their factors by key."""
        plans, factors = [], {}
        ordered = [fold for fold in self._profile.structure.folds if fold in self._folds]
        for number, fold in enumerate(ordered):
            alpha, key = self._folds[fold], f"fold_{number:04d}"
            factors[key] = self._scales.factors(fold, alpha)
            plans.append(FoldPlan.model_validate(asdict(fold) | {"key": key, "alpha": alpha}))
        return tuple(plans), factors

    def caches(self) -> tuple[Cache, ...]:
        """The KV cache of every layer."""
        found = []
        for layer in self._profile.structure.kv_layers:
            own = {"layer": layer.layer, "attention": layer.attention, "name": layer.group}
            term = self._terms.get(layer.group)
            if term is None:
                found.append(Cache.model_validate(own | {"precision": "bf16"}))
                continue
            roles = (Role.K,) if layer.latent_dim else (Role.K, Role.V)
            scales = {
                f"{role}_scale": self._scales.cache_amax(layer, role, term.folded) / E4M3.max
                for role in roles
            }
            kl = self._planner.score(term).kl
            rest = {"precision": "fp8", "folded": term.folded, "kl": kl}
            found.append(Cache.model_validate(own | rest | scales))
        return tuple(found)

    def notes(self) -> tuple[str, ...]:
        """What a person should know beside the reasons."""
        found = list(self._planner.asked.notes)
        if unseen := sorted(self._planner.unseen):
            found.append(f"the text never reached {', '.join(unseen)}: left in BF16")
        found += [
            f"{name} shares its weight with {tied}, which stays as it is: FP8 takes a copy"
            for name, tied in self._tied()
        ]
        gpu = self._planner.cost.roofline.gpu
        if not gpu.has_fp8:
            found.append(f"{gpu.name} has no FP8 tensor cores: there FP8 saves memory alone")
        found += by_hand(self._planner, self._choice, self._objective)
        found += doubts(self._planner, self._choice)
        found += cache_offer(self._planner, self._choice)
        return tuple(found)

    def _tied(self) -> list[tuple[str, str]]:
        """Linears in FP8 that share their weight with something else."""
        quantized = {
            name
            for group in self._profile.structure.groups
            for name in group.members
            if group.name in self._terms
        }
        linears = self._profile.structure.linears
        return [(x.name, x.tied_to) for x in linears if x.tied_to and x.name in quantized]

    def _group(self, unit: Unit) -> Group:
        term = self._terms.get(unit.name)
        cause = None if term == Term(unit.name, PLAIN) else self._cause(unit)
        evidence = self._evidence(unit, term, cause)
        common = {"name": unit.name, "members": _members(unit), "evidence": evidence}
        if term is None:
            reason = self._why_bf16(unit, evidence, cause)
            decided = unit not in self._planner.left_out
            bf16 = {"precision": "bf16", "reason": reason, "decided": decided}
            return Group.model_validate(common | bf16)
        candidate, blocks = CANDIDATES[term.candidate], None
        static = candidate.input is not None and candidate.input.static
        if term.candidate == "fp8_block" and candidate.input and candidate.weight:
            blocks = (tuple(candidate.input.tile), tuple(candidate.weight.tile))
        how = How(term, self._plain(term), self._into(unit, term), self._readers(unit, term))
        return Group.model_validate(
            common
            | {
                "precision": term.candidate,
                "alpha": term.alpha,
                "folded": term.folded,
                "blocks": blocks,
                "scales": [self._scale(gemm, term) for gemm in unit.gemms] if static else (),
                "reason": fp8_reason(how, evidence, cause, self._prefix),
            }
        )

    def _scale(self, gemm: Gemm, term: Term) -> Scale:
        amax = self._scales.input_amax(gemm, term.alpha)
        return Scale(members=gemm.members, input_amax=amax, input_scale=amax / E4M3.max)

    def _cause(self, unit: Unit) -> SiteCause | None:
        """None where there is no outlier, or the text never reached the group."""
        if unit.name in self._planner.unseen or unit in self._planner.left_out:
            return None
        found = group_cause(self._profile, unit)
        return None if found.cause is Cause.ROUNDING else found

    def _evidence(self, unit: Unit, term: Term | None, cause: SiteCause | None) -> Evidence:
        planner, sure = self._planner, self._sure.groups.get(unit.name)
        nats = Nats(0.0, 0.0) if term is None else planner.score(term).nats
        known = {name: score.kl for name, score in planner.scores.candidates(unit.name).items()}
        candidates = {name: kl for name, kl in known.items() if math.isfinite(kl)}
        other = self._instead(unit, candidates) or PLAIN
        asked = "keep" if unit.name in planner.asked.kept else None
        if unit.name in planner.asked.excluded and unit not in planner.left_out:
            asked = "exclude"
        asked = BY_HAND if unit.name in planner.asked.pinned else asked
        return Evidence(
            kl=nats.kl,
            kl_error=0.0 if math.isnan(nats.error) else nats.error,
            candidates=candidates,
            fp8_time_us=planner.cost.time_us(unit, term.candidate if term else other),
            bf16_time_us=planner.cost.time_us(unit, BF16),
            cause=str(cause.cause) if cause else None,
            asked=asked,
            resamples=self._sure.draws if sure and not asked else 0,
            share=sure.share if sure and not asked and self._sure.draws else None,
            near_ties=sure.ties if sure and not asked else (),
        )

    def _why_bf16(self, unit: Unit, evidence: Evidence, cause: SiteCause | None) -> str:
        if unit in self._planner.left_out:
            return "stays in BF16 unless it is asked for (--keep)"
        if unit.name in self._planner.unseen:
            return "the text never reached it: nothing is known of it in FP8"
        best = self._instead(unit, evidence.candidates)
        return bf16_reason(self._objective, evidence, best, cause, self._prefix)

    def _instead(self, unit: Unit, candidates: Mapping[str, float]) -> str | None:
        times = {name: self._planner.cost.time_us(unit, name) for name in candidates}
        return instead(self._objective, candidates, times)

    def _plain(self, term: Term) -> float | None:
        """What the group would cost in plain FP8; under the same factors, where it is smoothed."""
        folded = term.folded if term.alpha is not None else None
        plain = Term(term.group, PLAIN, folded=folded)
        return self._planner.score(plain).kl if plain in self._planner.rows else None

    def _into(self, unit: Unit, term: Term) -> tuple[str, ...]:
        """The modules that the group's smoothing is folded into."""
        folds = (gemm.input_fold for gemm in unit.gemms if term.alpha is not None)
        return tuple(fold.producer for fold in folds if fold)

    def _readers(self, unit: Unit, term: Term) -> tuple[str, ...]:
        """The modules whose factors divide the group's rows."""
        folds = (fold for gemm in unit.gemms for fold in gemm.output_folds.values())
        used = (fold for fold in folds if term.folded is not None)
        return tuple(name for fold in used for name in fold.consumers)


def _members(unit: Unit) -> tuple[str, ...]:
    return tuple(name for gemm in unit.gemms for name in gemm.members)


def _router(name: str, members: tuple[str, ...]) -> Group:
    nothing = Evidence(kl=0, kl_error=0, candidates={}, fp8_time_us=0, bf16_time_us=0)
    reason = "routers stay in BF16: no engine quantizes them"
    bf16 = {"precision": "bf16", "decided": False, "reason": reason, "evidence": nothing}
    return Group.model_validate({"name": name, "members": members} | bf16)
