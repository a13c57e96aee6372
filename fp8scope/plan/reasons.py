"""Why a group runs in what it runs in: one sentence, with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fp8scope.analyze.cause import SiteCause
from fp8scope.analyze.cause_words import cause_evidence
from fp8scope.artefacts.plan import Evidence, Objective
from fp8scope.core.choices import Term
from fp8scope.core.words import fine_nats, percent, short_name
from fp8scope.plan.clusters import PLAIN

PLAIN_WORDS = "one static scale per tensor"
WORDS = {
    PLAIN: PLAIN_WORDS,
    "fp8_token": "scales per token",
    "fp8_block": "scales per block",
    "fp8_smooth": "smoothing",
}
TIES = 3
BY_HAND = "by hand"
"""Who asked for the precision of a group that a person has set in the browser."""


@dataclass(frozen=True)
class How:
    """A group in FP8: its term; what it would cost in plain FP8, with the same factors in its rows
    if it is smoothed; the modules that its smoothing is folded `into`, and the `readers` whose
    factors its rows carry; all are often none.
    """

    term: Term
    plain: float | None
    into: tuple[str, ...]
    readers: tuple[str, ...]


def fp8_reason(how: How, evidence: Evidence, cause: SiteCause | None, prefix: str) -> str:
    """A group in FP8."""
    term = how.term
    said = WORDS[term.candidate]
    if term.alpha is not None:
        said += f" at α {term.alpha:g}, folded into {_names(how.into, prefix)},"
    if how.readers:
        said += f" with the factors of {_names(how.readers, prefix)} in its rows"
    said += f" costs {_cost(evidence)} nats per token"
    changed = term != Term(term.group, PLAIN)
    if changed and how.plain is not None:
        what = f"{PLAIN_WORDS} and these factors" if how.readers and term.alpha else PLAIN_WORDS
        said += f", where {what} alone would cost {fine_nats(how.plain)}"
    why = f" ({cause_evidence(cause, prefix)})" if cause and changed else ""
    return _sentence(f"{said}{why}; BF16 would take {_slower(evidence)}", evidence)


def instead(
    objective: Objective, candidates: Mapping[str, float], times: Mapping[str, float]
) -> str | None:
    """What a group in BF16 would run in: the fastest candidate that is allowed, of equals that
    which costs least; None where none is known. candidates: nats, times: µs.
    """
    allowed = [name for name in objective.candidates if name in candidates]
    return min(allowed, key=lambda name: (times[name], candidates[name]), default=None)


def bf16_reason(
    objective: Objective, evidence: Evidence, best: str | None, cause: SiteCause | None, prefix: str
) -> str:
    """A group in BF16 because the solver chose so; `best` is what it would run in `instead`."""
    if best is None:
        return _sentence("what it costs is known of none of the FP8 candidates", evidence)
    cost = evidence.candidates[best]
    said = f"FP8 ({WORDS[best]}) would cost {fine_nats(cost)} nats per token"
    budget = objective.value if objective.solved_for is None else objective.solved_for
    if objective.limit == "max_kl" and budget > 0:
        said += f", {percent(cost / budget)} of the budget of {fine_nats(budget)}"
    more = evidence.bf16_time_us - evidence.fp8_time_us
    faster = "" if more >= 0 else " (BF16 is the faster one here)"
    said += f"; BF16 takes {_slower(evidence)}{faster}"
    why = f" ({cause_evidence(cause, prefix)})" if cause else ""
    return _sentence(f"{said}{why}{_sureness(evidence, prefix)}", evidence)


def _sureness(evidence: Evidence, prefix: str) -> str:
    """`; chosen in 97% of 200 resamples, nearly tied with layers.3.mlp.gate_up`."""
    if evidence.share is None:
        return ""
    said = f"; chosen in {percent(evidence.share)} of {evidence.resamples} resamples"
    if evidence.near_ties:
        names = ", ".join(short_name(name, prefix) for name in evidence.near_ties[:TIES])
        more = ", …" if len(evidence.near_ties) > TIES else ""
        said += f", nearly tied with {names}{more}"
    return said


def _names(modules: tuple[str, ...], prefix: str) -> str:
    return ", ".join(short_name(name, prefix) for name in modules)


def _cost(evidence: Evidence) -> str:
    if evidence.kl <= 0:
        return fine_nats(evidence.kl)
    return f"{fine_nats(evidence.kl)} ± {percent(evidence.kl_error / evidence.kl)}"


def _slower(evidence: Evidence) -> str:
    more = evidence.bf16_time_us - evidence.fp8_time_us
    return f"{more:.3g} µs of a step more" if more >= 0 else f"{-more:.3g} µs of a step less"


def _sentence(words: str, evidence: Evidence) -> str:
    if evidence.asked == BY_HAND:
        return f"set by hand: {words}"
    asked = f"asked for ({evidence.asked}): " if evidence.asked else ""
    return f"{asked}{words}"
