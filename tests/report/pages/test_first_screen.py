"""The facts of the first screen where a plan or a profile is out of the ordinary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fp8scope.artefacts.plan import Group, Measured, Plan
from fp8scope.report.document.blocks import Fact, Facts, Items
from fp8scope.report.document.html import html
from fp8scope.report.pages.names import Names
from fp8scope.report.pages.profile import profile_report
from fp8scope.report.pages.verdict import verdict
from tests.plan import invented
from tests.report.figures.subjects import whole
from tests.report.pages.subjects import report, snapshot, text


def planned(**changes: Any) -> Plan:
    plan = snapshot("demo, planned").plan
    assert plan is not None
    return plan.model_copy(update=changes)


def facts(plan: Plan) -> dict[str, Fact]:
    known = replace(snapshot("demo, planned"), plan=plan)
    found = verdict(known, Names(known)).blocks
    return {fact.label: fact for block in found if isinstance(block, Facts) for fact in block.facts}


def measured(budget: float | None, *, met: bool = True, **kl: float | None) -> Plan:
    """Measured so in each tag; the whole as the first."""
    tag: dict[str, float | None] = {
        "kl_error_nats": None,
        "true_perplexity": None,
        "perplexity": None,
        "log_perplexity_change": None,
        "log_perplexity_change_error": None,
        "top1_agreement": None,
        "tokens": 100,
        "sequences": 4,
    }
    tags = {name: tag | {"kl_nats": value} for name, value in kl.items()}
    compared = {
        "predicted_kl_nats": 0.004,
        "predicted_kl_error_nats": 0.001,
        "measured_over_predicted": None,
        "within_two_errors": True,
    }
    whole_of_it = next(iter(tags.values())) | compared
    return planned(
        measured=Measured.model_validate(
            whole_of_it
            | {"budget_nats": budget, "met": met, "tags": tags, "text": {}, "rounds": ()}
        )
    )


def test_the_worst_use_case_is_the_measured_one_where_there_is_one() -> None:
    assert facts(planned())["Worst use case"].note == "nats per token in code, predicted"
    found = facts(measured(0.01, prose=0.004, support=0.009))["Worst use case"]
    assert (found.value, found.note) == ("0.0090", "nats per token in support, measured")
    found = facts(measured(0.01, prose=None, support=0.009))["Worst use case"]
    assert (found.value, found.note) == ("not a number", "nats per token in prose, measured")


def test_what_was_measured_is_good_or_bad_by_a_budget_alone() -> None:
    held, missed, unasked = (
        facts(measured(budget, met=met, prose=0.004))["Measured"]
        for budget, met in ((0.01, True), (0.001, False), (None, True))
    )
    assert (held.tone, missed.tone, unasked.tone) == ("good", "bad", "")
    assert "over the budget" in missed.note
    assert "budget" not in unasked.note
    assert facts(measured(None, prose=None))["Measured"].tone == "bad"


def test_who_asked_for_bf16_is_said_at_once() -> None:
    def asked(group: Group) -> Group:
        evidence = group.evidence.model_copy(update={"asked": "exclude"})
        return group.model_copy(update={"evidence": evidence, "precision": "bf16"})

    plan = planned()
    name = "model.layers.2.self_attn.qkv"
    groups = tuple(asked(group) if group.name == name else group for group in plan.groups)
    known = replace(snapshot("demo, planned"), plan=planned(groups=groups))
    (actions,) = (b for b in verdict(known, Names(known)).blocks if isinstance(b, Items))
    said = text(actions.items[0])
    assert said.startswith("layers.2.self_attn.qkv: keep it in BF16")
    assert "(asked for (exclude); input: fixed channel" in said


def test_a_plan_that_was_changed_by_hand_is_shown() -> None:
    plan = planned()
    bare = tuple(
        group.model_copy(
            update={"scales": tuple(s.model_copy(update={"members": ()}) for s in group.scales)}
        )
        for group in plan.groups
    )
    none = plan.predicted.model_copy(update={"step_time_us": 0.0})
    changed = planned(groups=bare, predicted=none)
    assert facts(changed)["Step"].note.startswith("∞× as fast as BF16")
    assert "Static scales" not in facts(changed)
    known = replace(snapshot("demo, planned"), plan=changed)
    assert "∞× as fast as BF16" in html(profile_report(known, layers=0))


def test_of_nothing_seen_nothing_is_good() -> None:
    of = replace(invented.profile(1), sites={}, aliases={}, weights={})
    known = whole(of)
    found = [block for block in verdict(known, Names(known)).blocks if isinstance(block, Facts)]
    assert [(fact.value, fact.tone) for fact in found[0].facts] == [("0 of 0", "")]


def test_experts_that_the_text_has_not_reached() -> None:
    for name in ("mixture of experts", "mixture of experts, planned"):
        (found,) = (block for block in report(name).verdict.blocks if isinstance(block, Facts))
        fact = next(fact for fact in found.facts if fact.label == "Experts reached")
        # two matmuls with one routing: four experts, three of which got a few tokens
        assert (fact.value, fact.tone) == ("0 of 4", "warn")
        assert fact.note == "by 100 tokens or more; 1 got none"
    (found,) = (block for block in report("llama").verdict.blocks if isinstance(block, Facts))
    assert "Experts reached" not in [fact.label for fact in found.facts]
