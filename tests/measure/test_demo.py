"""The demo measured on text that it has not seen, as `plan --measure` will."""

from __future__ import annotations

import pytest

from fp8scope.analyze.sensitivity import Scores
from fp8scope.core.choices import Kind, Row, Term
from fp8scope.demo.files import DEMO_MODEL, demo_held_out, demo_sources
from fp8scope.measure.api import measured_plan
from fp8scope.measure.held_out import held_out_text
from fp8scope.measure.measuring import Events, Subject
from fp8scope.observe import scan as scanning
from fp8scope.observe.sensitivity import SensitivityOptions
from fp8scope.runtime.loading import LoadOptions, load
from fp8scope.runtime.structure import discover
from fp8scope.runtime.text import build_calibration
from tests.measure.subjects import Plan

pytestmark = pytest.mark.slow

BUDGET = 0.005


@pytest.fixture(scope="module")
def demo() -> Subject:
    loaded = load(str(DEMO_MODEL), LoadOptions())
    text = build_calibration(demo_sources(), loaded.tokenizer, context=256)
    scanned = scanning.Subject(
        loaded.model, None, loaded.config, loaded.identity, discover(loaded.model), text
    )
    options = scanning.ScanOptions(sensitivity=SensitivityOptions())
    profile = scanning.Scan(scanned, options).run()
    held_out = held_out_text(profile, loaded.model, loaded.tokenizer, demo_held_out())
    return Subject(loaded.model, loaded.identity, profile, held_out)


@pytest.fixture(scope="module")
def costs(demo: Subject) -> dict[str, tuple[float, float]]:
    """KL and error of each group of the blocks alone, per tensor."""
    scores = Scores(demo.profile)
    alone = [group for group in scores.groups() if "lm_head" not in group]
    found = {group: scores.of(Row(Kind.GROUP, (Term(group, "fp8_tensor"),))) for group in alone}
    return {group: (score.nats.kl, score.nats.error) for group, score in found.items()}


class Planner:
    """FP8 per tensor or BF16: the dearest groups are given up."""

    def __init__(self, costs: dict[str, tuple[float, float]]) -> None:
        self._costs = costs

    def __call__(self, limit: float) -> Plan:
        names = sorted(self._costs, key=lambda name: -self._costs[name][0])
        while sum(self._costs[name][0] for name in names) > limit:
            names.pop(0)
        kl = sum(self._costs[name][0] for name in names)
        error = sum(self._costs[name][1] ** 2 for name in names) ** 0.5
        return Plan([Term(name, "fp8_tensor") for name in sorted(names)], kl, error)


def test_held_out_text_of_every_tag(demo: Subject) -> None:
    assert demo.text.tags == demo.profile.tags
    assert len(demo.text.samples) == 64


def test_without_a_plan_nothing_is_lost(demo: Subject) -> None:
    found = measured_plan(Plan(()), demo).result.measurement
    assert (found.kl, found.whole.agreement) == (0.0, 1.0)
    assert found.whole.perplexity == found.whole.true_perplexity
    by_tag = {tag: part.true_perplexity for tag, part in found.tags.items()}
    assert by_tag["support"] < 2 < by_tag["technical"]  # it has seen those sentences


def test_everything_in_fp8_loses_what_was_planted(
    demo: Subject, costs: dict[str, tuple[float, float]]
) -> None:
    found = measured_plan(Planner(costs)(9.0), demo).result.measurement
    assert 0.1 < found.kl < 1
    assert found.whole.agreement < 0.9
    change = found.whole.log_change
    assert change.kl > 2 * change.error > 0
    assert found.kl > 10 * found.whole.kl.error > 0


def test_the_budget_holds_on_text_that_the_scan_has_not_read(
    demo: Subject, costs: dict[str, tuple[float, float]]
) -> None:
    replan, said = Planner(costs), list[str]()
    events = Events(warn=said.append)
    found = measured_plan(replan(BUDGET), demo, budget=BUDGET, replan=replan, events=events)
    assert found.met
    assert not [note for note in said if "blocks" in note]
    result = found.result
    assert len(result.plan.terms) >= 6
    assert 0.5 < found.rounds[0].comparison.ratio < 2
    tight = 0.8 * result.measurement.kl  # of what that plan costs: one more group has to go
    again = measured_plan(result.plan, demo, budget=tight, replan=replan)
    assert again.met
    assert len(again.rounds) > 1
    assert len(again.result.plan.terms) < len(result.plan.terms)
    for each in again.rounds:
        alone = measured_plan(each.plan, demo).result
        assert repr(alone.measurement) == repr(each.measurement)
