"""Are the plans good? Measured on other text, beside an oracle's and ModelOpt's at the same bits.

    python tests/bench/plan_quality.py [--model NAME …] [--plants none tokens …] [--bits 9 10 …]

The small trained models of ../shared/data in fp32, as they are and with outliers planted in two
layers or in all (see tests/planting.py). Plans are made from one part of each text and
measured by fake quantization on another. With FP8 per tensor or BF16 to choose from, over the
blocks' linears: ours from the estimates of one backward pass; an oracle's, our solver on the KL of
each group measured by itself; ModelOpt's own by both of its methods. By bits allowed: bits used, KL
with its standard error, and ours less the other, relative, with the paired error: ours with the
bits that are allowed (or that the other uses, if more), and with no more than the other uses. With
the former it has to be within 3% (or one error) of the oracle's, and no more than 2% (or one error)
above ModelOpt's.

Then with all candidates in the predicted time of our FP8-or-BF16 plan: how much lower the KL is.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch

from fp8scope.core.choices import Term
from fp8scope.plan.objective import Limit, Objective
from fp8scope.plan.planner import Choice, Planner
from tests import planting
from tests.bench.planned import HeldOut, Texts, planner, rows_of, scanned
from tests.bench.sensitivity import modelopt_search

PLAIN = ("fp8_tensor",)
PLANTS: Mapping[str, Mapping[int, str]] = {
    "none": {},
    "tokens": {1: "first token", 3: "newline"},
    "channels": {1: "norm → q, k, v", 3: "SwiGLU product"},
    "values": {0: "value channel", 2: "norm → gate, up"},
    "all layers": {
        0: "first token",
        1: "norm → q, k, v",
        2: "value channel",
        3: "SwiGLU product",
        4: "norm → gate, up",
    },
}
CALIBRATION, HELD_OUT = 20_000, 300_000  # characters into each text
LENGTH = 128
AS_GOOD = {"oracle": 0.03, "gradient": 0.02, "kl_div": 0.02}
SAME_BITS = 1e-6

Terms = Sequence[Term]


class ModelOpt:
    """Its plans by one of its methods, from one scoring; lm_head is left alone."""

    def __init__(self, model: Any, texts: Texts, method: str, ours: Planner) -> None:
        ids = torch.cat(list(texts.values()))
        self._state = modelopt_search(copy.deepcopy(model), ids, method, ["*lm_head*"])
        members = {
            frozenset(name for gemm in unit.gemms for name in gemm.members): unit.name
            for unit in ours.decided
        }
        self._groups, self._blocks, self._rest = {}, 0.0, 0.0
        for key, stats in self._state["candidate_stats"].items():
            if len(stats["formats"]) == 1:
                self._rest += stats["uncompressed_cost"]  # what is left alone counts in its bits
            else:
                self._groups[key] = members[frozenset(stats["module_names"])]
                self._blocks += stats["uncompressed_cost"]
        if set(self._groups.values()) != set(members.values()):
            raise RuntimeError(f"ModelOpt searched other groups: {sorted(self._groups)}")

    def plan(self, bits: float) -> Terms:
        """At most so many bits per weight of the blocks' linears."""
        from modelopt.torch.quantization.algorithms import _resolve_best_recipe

        whole = (bits * self._blocks + 16 * self._rest) / (self._blocks + self._rest)
        chosen = _resolve_best_recipe(self._state, {"effective_bits": whole * (1 + SAME_BITS)})
        return [
            Term(self._groups[key], "fp8_tensor")
            for key, recipe in chosen.items()
            if key in self._groups and recipe.num_bits == 8
        ]


class Variant:
    """A model, everybody's plans of it, and the text to measure them on."""

    def __init__(self, model: Any, calibration: Texts, held_out: Texts) -> None:
        profile = scanned(model, calibration)
        measured = scanned(model, calibration, PLAIN, measure_all=True)
        self.ours = planner(profile, PLAIN)
        self.oracle = planner(measured, PLAIN)
        self.all = planner(profile)
        self.held_out = HeldOut(model, profile, held_out)
        self.modelopt = {
            method: ModelOpt(model, calibration, method, self.ours)
            for method in ("gradient", "kl_div")
        }

    def bits(self, terms: Terms) -> float:
        """Per weight of the blocks' linears."""
        quantized = {term.group for term in terms}
        weights = {unit.name: self.ours.cost.elements(unit) for unit in self.ours.decided}
        saved = sum(count for name, count in weights.items() if name in quantized)
        return 16 - 8 * saved / sum(weights.values())

    def measured(self, terms: Terms) -> dict[str, float]:
        nats = self.held_out.mean(self.held_out.nats(terms))
        return {
            "bits": round(self.bits(terms), 3),
            "kl": round(nats.kl, 6),
            "error": round(nats.error, 6),
        }

    def less(self, own: Terms, other: Terms) -> tuple[float, float]:
        """KL of one plan less that of the other, relative, with its paired standard error."""
        base = self.held_out.nats(other)
        found = self.held_out.mean(self.held_out.nats(own) - base)
        kl = max(self.held_out.mean(base).kl, 1e-12)
        return found.kl / kl, found.error / kl


def at_bits(variant: Variant, bits: float) -> dict[str, Any]:
    """Everybody's plan, and ours beside each: of the bits that are allowed, and that it uses."""
    others = {"oracle": plan(variant.oracle, bits).terms} | {
        method: modelopt.plan(bits) for method, modelopt in variant.modelopt.items()
    }
    beside: dict[str, Any] = {"ours": variant.measured(plan(variant.ours, bits).terms)}
    for name, terms in others.items():
        used = variant.bits(terms)
        allowed = variant.less(plan(variant.ours, max(bits, used)).terms, terms)
        same = variant.less(plan(variant.ours, used).terms, terms)
        beside[name] = {
            **variant.measured(terms),
            "ours less": rounded(*allowed),
            "ours of its bits less": rounded(*same),
            "right": allowed[0] <= max(AS_GOOD[name], allowed[1]),
        }
    return beside


def plan(of: Planner, bits: float) -> Choice:
    return of.choose(of.bits(bits * (1 + SAME_BITS)))


def with_all_candidates(variant: Variant, bits: float) -> dict[str, Any]:
    """In the time of the plan of FP8 or BF16."""
    ours = plan(variant.ours, bits)
    better = variant.all.choose(Objective(Limit.TIME, ours.time_us * (1 + SAME_BITS)))
    change, error = variant.less(better.terms, ours.terms)
    return {
        "candidates": dict(Counter(term.candidate for term in better.terms)),
        **variant.measured(better.terms),
        "times": round(1 + change, 4),
        "paired error": round(error, 4),
        "predicted times": round(better.nats.kl / max(ours.nats.kl, 1e-12), 4),
        "time": round(better.time_us / ours.time_us, 4),
    }


def rounded(*numbers: float) -> list[float]:
    return [round(number, 4) for number in numbers]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", nargs="*", default=planting.MODELS)
    parser.add_argument("--plants", nargs="*", default=list(PLANTS), choices=list(PLANTS))
    parser.add_argument("--strengths", type=float, nargs="*", default=[1e5, 1e6])
    parser.add_argument("--bits", type=float, nargs="*", default=[9, 10, 11, 12, 13])
    parser.add_argument("--calibration", type=int, default=32, help="sequences of each text")
    parser.add_argument("--held-out", type=int, default=64, help="sequences of each text")
    arguments = parser.parse_args()
    if not planting.DATA.is_dir():
        print(f"skipped: no {planting.DATA}")
        return
    right: dict[str, list[bool]] = defaultdict(list)
    ours: dict[str, list[float]] = defaultdict(list)
    times: dict[str, list[float]] = defaultdict(list)
    for name in arguments.model:
        texts = (
            rows_of(name, CALIBRATION, arguments.calibration, LENGTH),
            rows_of(name, HELD_OUT, arguments.held_out, LENGTH),
        )
        for plants, strength in product(arguments.plants, arguments.strengths):
            if not PLANTS[plants] and strength != arguments.strengths[0]:
                continue
            kind = f"{plants}, {strength:.0e}" if PLANTS[plants] else plants
            variant = Variant(planting.planted(name, PLANTS[plants], strength)[0], *texts)
            for bits in arguments.bits:
                title = {"model": name, "planted": kind, "bits": bits}
                equal, better = at_bits(variant, bits), with_all_candidates(variant, bits)
                print(json.dumps(title | equal | {"all candidates": better}), flush=True)
                for other in AS_GOOD:
                    right[other].append(equal[other]["right"])
                    ours[other].append(1 + equal[other]["ours less"][0])
                times[kind].append(better["times"])
    for other, found in right.items():
        print(
            f"beside {other}: {sum(found)} of {len(found)} right; times its KL: {of(ours[other])}"
        )
    for kind, ratios in times.items():
        print(f"all candidates in the same time, {kind}: times the KL of FP8 or BF16: {of(ratios)}")


def of(ratios: Sequence[float]) -> str:
    """Geometric mean and range."""
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"{mean:.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"


if __name__ == "__main__":
    main()
