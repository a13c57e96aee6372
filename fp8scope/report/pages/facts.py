"""The figures of the first screen."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fp8scope.analyze.analysis import tag_damage
from fp8scope.analyze.convergence import State
from fp8scope.analyze.coverage import expert_coverage
from fp8scope.analyze.groups import PLAIN
from fp8scope.analyze.kvcache import Safety
from fp8scope.analyze.scaling import Need
from fp8scope.analyze.sensitivity import Score
from fp8scope.analyze.thresholds import DAMAGED_DB, HARM_NATS, STARVED_TOKENS
from fp8scope.analyze.verdict import Verdict
from fp8scope.artefacts.plan import MeasuredTag, Plan
from fp8scope.core.sites import Role, Site
from fp8scope.core.words import (
    decibel,
    nats,
    nats_within,
    number,
    percent,
    printable,
    site_name,
)
from fp8scope.plan.prediction import over
from fp8scope.report.document.blocks import Fact, Tone
from fp8scope.report.groups import NAMES
from fp8scope.report.plan import capital, speedup
from fp8scope.report.snapshot import Snapshot


def of_plan(snapshot: Snapshot, plan: Plan) -> list[Fact]:
    """What the plan costs and gives, and how far that may be trusted."""
    found = plan.predicted
    facts = [_cost(plan), *_measured(plan), _plain(snapshot, plan), *_worst_tag(plan)]
    facts += [
        _step(plan),
        Fact(
            "Bits per weight",
            f"{found.effective_bits:.2f}",
            f"{percent(found.bf16_share) if found.bf16_share else 'none'} of the weights in BF16",
        ),
    ]
    return [*facts, *_static(snapshot, plan), *_text(snapshot), *_caches(snapshot, plan)]


def of_scores(snapshot: Snapshot) -> list[Fact]:
    """The whole model in each candidate, the worst first."""
    scores = sorted(snapshot.models.items(), key=lambda item: -_known(item[1].kl))
    facts = [
        Fact(
            _candidate(name, score),
            nats_within(score.kl, score.nats.error),
            f"nats per token, the whole model, {'measured' if score.measured else 'predicted'}",
            "bad" if score.kl >= HARM_NATS and name.startswith("fp8_tensor") else "",
        )
        for name, score in scores
    ]
    damage = tag_damage((snapshot.groups or {}).values(), snapshot.models)
    if len(damage) > 1:
        note = f"nats per token in {printable(damage[0].tag)}, {NAMES[PLAIN]}"
        facts.append(Fact("Worst use case", nats(damage[0].whole), note))
    return [*facts, *_static(snapshot), *_text(snapshot), *_caches(snapshot)]


def of_tensors(snapshot: Snapshot, found: Verdict) -> list[Fact]:
    """Where nothing was scored: what happens to the tensors."""
    tone: Tone = "bad" if found.damaged else "good" if found.sites else ""
    facts = [
        Fact(
            "Damaged tensors",
            f"{len(found.damaged)} of {found.sites}",
            f"body SQNR under {DAMAGED_DB:.0f} dB",
            tone,
        )
    ]
    if found.lowest is not None:
        where = site_name(found.lowest.site, snapshot.prefix)
        low = decibel(found.lowest.error.body_sqnr_db)
        facts.append(Fact("Lowest body SQNR", low, where, tone))
    return [*facts, *_static(snapshot), *_text(snapshot), *_caches(snapshot)]


def _candidate(name: str, score: Score) -> str:
    alpha = max((t.alpha for t in score.row.terms if t.alpha is not None), default=None)
    return capital(NAMES.get(name, printable(name)) + ("" if alpha is None else f" at α {alpha:g}"))


def _cost(plan: Plan) -> Fact:
    found, asked = plan.predicted, plan.objective
    note = "nats per token, predicted"
    tone: Tone = ""
    if asked.limit == "max_kl":
        preset = f" ({asked.preset})" if asked.preset else ""
        note += f"; budget {nats(asked.value)}{preset}"
        allowed: Tone = "warn" if found.nats.kl >= HARM_NATS else "good"
        tone = "bad" if over(found, asked) else allowed
    return Fact("This plan costs", nats_within(found.nats.kl, found.nats.error), note, tone)


def _measured(plan: Plan) -> Iterator[Fact]:
    found = plan.measured
    if found is None:
        return
    note = f"nats per token on {found.sequences} held-out sequences"
    tone: Tone = "" if found.kl_nats is not None else "bad"
    if found.budget_nats is not None:
        note += ", within the budget" if found.met else ", over the budget"
        tone = "good" if found.met else "bad"
    yield Fact("Measured", _measured_nats(found), note, tone)


def _worst_tag(plan: Plan) -> Iterator[Fact]:
    """The use case that suffers most: as measured, where it was."""
    if plan.measured is not None:
        tags, how = plan.measured.tags, "measured"
        cost = {tag: math.inf if of.kl_nats is None else of.kl_nats for tag, of in tags.items()}
        words = {tag: _measured_nats(of) for tag, of in tags.items()}
    else:
        how, predicted = "predicted", plan.predicted.tags
        cost = {tag: of.kl for tag, of in predicted.items()}
        words = {tag: nats_within(of.kl, of.error) for tag, of in predicted.items()}
    if len(cost) > 1:
        worst = max(cost, key=lambda tag: cost[tag])
        note = f"nats per token in {printable(worst)}, {how}"
        yield Fact("Worst use case", words[worst], note)


def _measured_nats(found: MeasuredTag) -> str:
    return "not a number" if found.kl_nats is None else nats(found.kl_nats)


def _plain(snapshot: Snapshot, plan: Plan) -> Fact:
    plain, score = plan.predicted.plain_fp8, snapshot.models.get(PLAIN)
    if plain is None:
        return Fact("Plain FP8 everywhere", "no numbers", "it is not finite", "bad")
    tone: Tone = "bad" if plain.kl >= HARM_NATS else ""
    # the plan has it from the scan, which measures the whole model where it can
    measured = score is not None and score.measured is not None and score.kl == plain.kl
    note = f"nats per token, {'measured by the scan' if measured else 'predicted'}; "
    if all(group.precision == PLAIN for group in plan.groups if group.decided):
        note, tone = f"{note}this plan is just that", "warn" if tone else ""
    else:
        note += "one static scale per tensor"
    return Fact("Plain FP8 everywhere", nats_within(plain.kl, plain.error), note, tone)


def _step(plan: Plan) -> Fact:
    found, cost = plan.predicted, plan.cost
    how = "a roofline bound, not measured" if cost.source == "roofline" else "measured"
    note = (
        f"{speedup(found)} as fast as BF16 "
        f"({number(found.bf16_step_time_us)}), plain FP8 {number(found.fp8_step_time_us)}; "
        f"{printable(cost.gpu)}, {how}"
    )
    return Fact("Step", f"{number(found.step_time_us)} µs", note)


def _static(snapshot: Snapshot, plan: Plan | None = None) -> Iterator[Fact]:
    """The inputs of which one static scale is safe; of a plan those to which it gives just that."""
    verdict = snapshot.scaling
    if verdict is None:
        return
    rows, note = verdict.rows, "linear inputs safe with a static scale"
    if plan is not None:
        plain = [group for group in plan.groups if group.precision == "fp8_tensor"]
        inputs = {
            snapshot.profile.owner(Site(member, Role.INPUT))
            for group in plain
            for scale in group.scales
            for member in scale.members[:1]
        }
        rows = tuple(row for row in rows if row.site in inputs)
        note = "inputs safe, of those that the plan leaves plain"
    if rows:
        safe = sum(row.need is Need.STATIC for row in rows)
        unknown = sum(row.need is Need.UNKNOWN for row in rows)
        tone: Tone = "good" if safe == len(rows) else "warn"
        yield Fact("Static scales", f"{safe} of {len(rows)}", note + _unknown(unknown), tone)


def _text(snapshot: Snapshot) -> Iterator[Fact]:
    """Whether there was enough of it, for every amax and for every expert."""
    yield from _settled(snapshot)
    yield from _reached(snapshot)


def _reached(snapshot: Snapshot) -> Iterator[Fact]:
    """Nothing good can be said of experts that the text has not reached."""
    found = expert_coverage(snapshot.profile)
    if not found:
        return
    total = sum(len(coverage.whole.tokens) for coverage in found)
    dead, starved = (-sum(coverage.severity[i] for coverage in found) for i in (0, 1))
    tone: Tone = "warn" if dead or starved else "good"
    note = f"by {STARVED_TOKENS} tokens or more; {dead:,} got none"
    yield Fact("Experts reached", f"{total - dead - starved:,} of {total:,}", note, tone)


def _settled(snapshot: Snapshot) -> Iterator[Fact]:
    found = snapshot.convergence
    if not found:
        return
    states = [row.state for row in found]
    note = f"sites whose amax has settled{_unknown(states.count(State.UNKNOWN))}"
    settled = states.count(State.SETTLED)
    tone: Tone = "good" if settled == len(found) else "warn"
    yield Fact("Text enough", f"{settled} of {len(found)}", note, tone)


def _unknown(count: int) -> str:
    return f"; not known of {count}, too few sequences" if count else ""


def _caches(snapshot: Snapshot, plan: Plan | None = None) -> Iterator[Fact]:
    """How many layers are safe in FP8: of a plan that stores some so, of those."""
    layers = snapshot.kv_cache or ()
    stored = {cache.attention: cache.precision for cache in plan.kv_cache} if plan else {}
    in_fp8 = [layer for layer in layers if stored.get(layer.module) == "fp8"]
    asked = in_fp8 or list(layers)
    if not asked:
        return
    safe = [layer.calibrated_safety for layer in asked].count(Safety.SAFE)
    tone: Tone = "good" if safe == len(asked) else "warn"
    if not stored:
        note = "layers in FP8 with calibrated scales"
        yield Fact("KV cache", f"{safe} of {len(asked)} safe", note, tone)
        return
    value = f"FP8 in {len(in_fp8)} of {len(stored)}" if in_fp8 else "BF16"
    value = "FP8" if len(in_fp8) == len(stored) else value
    which = "safe" if in_fp8 else "FP8 would be safe"
    note = f"{which} in {safe} of {len(asked)} layers, with calibrated scales"
    yield Fact("KV cache", value, note, tone if in_fp8 else "")


def _known(kl: float) -> float:
    return math.inf if math.isnan(kl) else kl
