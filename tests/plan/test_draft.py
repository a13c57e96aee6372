"""A plan under a person's hands: numbers are those of a plan made anew, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import pytest

from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import plan_text, read_factors, read_plan, write_plan
from fp8scope.core.choices import Term
from fp8scope.core.gemms import units
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.errors import BadInput, Stale
from fp8scope.plan.clusters import PLAIN
from fp8scope.plan.draft import Draft
from fp8scope.plan.make import PlanMaker, make_plan
from fp8scope.plan.moves import PRECISIONS
from fp8scope.plan.prediction import predicted
from fp8scope.plan.reasons import BY_HAND
from fp8scope.plan.settings import PlanSettings
from fp8scope.profile.record import Profile
from tests.observe.quantized_models import prepared
from tests.plan import invented
from tests.plan.invented import group
from tests.plan.test_clusters import consistent
from tests.plan.test_plan import check_whole, small

DOWN, UP, QKV, OUT = (group(0, name) for name in ("down", "gate_up", "qkv", "o"))
SETTINGS = PlanSettings(max_kl=0.02)


def draft(profile: Profile | None = None, settings: PlanSettings = SETTINGS) -> Draft:
    return Draft(profile or small(), settings=settings)


@cache
def family(name: str) -> Profile:
    """A scored profile of a real family, smoothing cheap; shared: do not change it."""
    of = prepared(name).profile
    draw = invented.random_nats(7, len(of.samples["index"]))
    return invented.with_nats(of, lambda term: 1e-5 if term.alpha or term.folded else draw(term))


def anything(own: Draft, rng: Random, names: Sequence[str]) -> str:
    """One thing that a person might do; what is refused changes nothing."""
    name, precision = rng.choice(names), rng.choice(PRECISIONS)
    done: list[Callable[[], str]] = [
        lambda: own.set(name, precision),
        lambda: own.set(name, precision),
        lambda: own.next(name),
        lambda: own.set_cache(rng.random() < 0.5),
        lambda: own.pin(name),
        own.steps.undo,
        own.steps.redo,
    ]
    before = own.step
    try:
        return rng.choice(done)()
    except BadInput as refused:
        assert own.step is before
        return str(refused)


# ---- numbers


@pytest.mark.parametrize("name", ["", "llama", "mixtral", "deepseek_v2", "deepseek_v3", "gemma2"])
@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_the_same_terms_computed_afresh(name: str, seed: int) -> None:
    profile = family(name) if name else small()
    own, rng = draft(profile), Random(seed)  # noqa: S311
    names = [unit.name for unit in units(profile.structure)]
    fresh = PlanMaker(profile, SETTINGS)
    for _ in range(25):
        said = anything(own, rng, names)
        assert said
        terms = own.step.terms
        assert consistent(profile.structure, terms), said
        ways = own._moves.split(terms)
        assert ways is not None
        assert own.predicted == predicted(fresh.planner, fresh.planner.sums(ways)), said
        assert own.predicted.nats.kl == pytest.approx(
            sum(fresh.planner.score(term).kl for term in terms), rel=1e-9, abs=1e-15
        )
        cached = {layer.group in {t.group for t in terms} for layer in profile.structure.kv_layers}
        assert len(cached) <= 1
    plan, factors = own.plan()
    check_whole(plan, factors, profile)
    assert plan.predicted == own.predicted
    assert set(plan.terms()) == set(own.step.terms)


def test_the_default_is_the_plan_that_plan_makes() -> None:
    own, (plan, _) = Draft(small()), make_plan(small())
    assert plan_text(own.plan()[0]) == plan_text(plan)
    assert own.predicted == plan.predicted
    assert own.frontier() == plan.frontier
    assert not own.changed


def test_setting_what_the_solver_chose_gives_its_numbers() -> None:
    """From all BF16, group by group, to a plan of the solver."""
    plan, _ = make_plan(small(), replace(SETTINGS, kv_cache="fp8"))
    own = draft(settings=PlanSettings(max_bf16_share=0, kv_cache="bf16"))
    for one in plan.groups:
        if one.decided:
            own.set(one.name, one.precision)
    own.set_cache(True)
    assert set(own.step.terms) == set(plan.terms())
    assert own.predicted == plan.predicted


# ---- what goes together


def test_a_fold_pair_moves_together() -> None:
    own = draft()
    assert own.precision(DOWN) == "fp8_smooth"
    said = own.set(DOWN, "fp8_tensor")
    assert "layers.0.mlp.gate_up (without factors in its rows)" in said
    assert {Term(DOWN, PLAIN), Term(UP, PLAIN)} <= set(own.step.terms)
    said = own.set(DOWN, "fp8_smooth")
    assert said.startswith("layers.0.mlp.down FP8 per tensor → smoothed at α 0.5, and with it")
    assert Term(DOWN, "fp8_smooth", 0.5) in own.step.terms
    assert Term(UP, PLAIN, folded=0.5) in own.step.terms
    assert "KL " in said
    assert own.precision(UP) == PLAIN


def test_nothing_is_folded_into_a_producer_whose_reader_left_fp8() -> None:
    own = draft()
    own.set(DOWN, "bf16")
    assert Term(UP, PLAIN) in own.step.terms


def test_another_smoothed_group_keeps_its_alpha() -> None:
    def nats(term: Term) -> float:
        return {0.25: 0.001, 0.5: 0.002}.get(term.alpha or 0, 0.003)

    own = draft(invented.with_nats(invented.profile(), nats), PlanSettings(max_bf16_share=0))
    own.set(QKV, "fp8_smooth")
    alpha = next(term.alpha for term in own.step.terms if term.group == QKV)
    own.set(OUT, "fp8_smooth")
    kept = {term.group: term.alpha for term in own.step.terms if term.group in (QKV, OUT)}
    assert kept[QKV] == alpha == 0.25


def test_experts_that_read_one_norm_move_together() -> None:
    """DeepSeek's shared and routed experts are smoothed by one norm; the line says what moved."""
    own = draft(family("deepseek_v3"), PlanSettings(max_bf16_share=0, candidates=(PLAIN,)))
    experts = next(u.name for u in units(family("deepseek_v3").structure) if "experts" in u.name)
    shared = experts.replace("mlp.experts", "mlp.shared_experts.gate_up")
    assert own.precision(experts) == own.precision(shared) == PLAIN
    said = own.set(experts, "fp8_smooth")
    assert own.precision(shared) == "fp8_smooth"
    assert "shared_experts.gate_up FP8 per tensor → smoothed" in said
    assert "one factor serves all that a fold touches" in said
    own.set(shared, "fp8_tensor")  # what was pinned gives way to the last word, and is told of
    assert own.precision(experts) == PLAIN
    assert "no longer pinned" in own.step.done
    assert own.step.pins == {shared}


def test_latent_caches_follow_their_norm() -> None:
    profile = family("deepseek_v2")
    own = draft(profile)
    own.set_cache(True)
    latent = next(u.name for u in units(profile.structure) if u.name.endswith("kv_b_proj"))
    own.set(latent, "fp8_smooth")
    caches = [t for t in own.step.terms if t.group.endswith("kv_cache")]
    assert len(caches) == len(profile.structure.kv_layers)
    alpha = next(term.alpha for term in own.step.terms if term.group == latent)
    first = next(t for t in caches if t.group.rpartition(".")[0] == latent.rpartition(".")[0])
    assert first.folded == alpha is not None


def test_what_is_set_is_had_wherever_it_was_scored() -> None:
    for name in ("llama", "mixtral", "deepseek_v3"):
        own = draft(family(name))
        for unit in units(family(name).structure):
            for precision in own.options(unit.name):
                own.set(unit.name, precision)
                assert own.precision(unit.name) == precision


# ---- refusals


@pytest.mark.parametrize(
    ("name", "precision", "said"),
    [
        ("lm_head", "fp8_tensor", "lm_head stays in BF16 unless it is asked for"),
        ("model.layers.0.self_attn.kv_cache", "fp8_tensor", "engines keep the KV caches of all"),
        ("nothing", "fp8_tensor", "there is no fused group nothing"),
        (DOWN, "fp4", "there is no precision fp4"),
    ],
)
def test_refusals(name: str, precision: str, said: str) -> None:
    own = draft()
    before = own.step
    with pytest.raises(BadInput, match=said):
        own.set(name, precision)
    assert own.step is before


def test_what_was_not_scored_is_refused_in_words() -> None:
    scored = invented.with_nats(invented.profile(), lambda _: 0.001, (PLAIN, "fp8_token"))
    own = draft(scored)
    with pytest.raises(BadInput, match=r"was not scored in fp8_block.*may run in"):
        own.set(DOWN, "fp8_block")
    gemma = family("gemma2")
    own = draft(gemma)
    unit = next(u for u in units(gemma.structure) if not u.smoothable and own.options(u.name))
    with pytest.raises(BadInput, match="cannot be smoothed"):
        own.set(unit.name, "fp8_smooth")


def test_routers_and_what_no_text_reached() -> None:
    own = draft(family("mixtral"))
    router = next(n for n in own._left if n.endswith("gate"))
    assert own.precision(router) == "bf16"
    with pytest.raises(BadInput, match="is a router"):
        own.set(router, "fp8_tensor")


def test_no_scores_no_plan() -> None:
    with pytest.raises(BadInput, match="holds no sensitivity"):
        Draft(invented.profile())


# ---- undo and redo


@pytest.mark.parametrize("seed", range(4))
def test_undo_and_redo_give_back_every_step(seed: int) -> None:
    own, rng = draft(), Random(seed)  # noqa: S311
    names = [unit.name for unit in units(small().structure)]
    history = [own.step]
    while len(history) < 20:
        name = rng.choice(names)
        try:
            own.set(name, rng.choice(PRECISIONS)) if rng.random() < 0.8 else own.pin(name)
        except BadInput:
            continue
        if own.step is not history[-1]:
            history.append(own.step)
    for step in reversed(history[:-1]):
        own.steps.undo()
        assert own.step is step
    assert own.steps.undo() == "there is nothing to undo"
    assert not own.changed
    for step in history[1:]:
        own.steps.redo()
        assert own.step is step
    assert own.steps.redo() == "there is nothing to do again"
    own.steps.undo()
    own.set_cache(not own.cached)
    assert own.steps.redo() == "there is nothing to do again"


# ---- solving again


def test_solving_again_keeps_what_is_pinned() -> None:
    own = draft()
    own.set(QKV, "fp8_block")
    assert own.step.pins == {QKV}
    own.solve("0.01")
    assert own.precision(QKV) == "fp8_block"
    assert own.objective.value == 0.01
    assert own.predicted.nats.kl <= 0.01
    own.solve("0.01", keep_pins=False)
    asked = PlanMaker(small(), replace(SETTINGS, max_kl=0.01))
    assert set(own.step.terms) == set(asked.choose().terms)
    assert own.step.pins == frozenset()
    for _ in range(3):
        own.steps.undo()
    assert not own.changed
    own.set(DOWN, "fp8_tensor")
    with pytest.raises(BadInput, match=r"the least is 0.2 → .*release what is pinned"):
        own.solve("0.01")


@pytest.mark.parametrize(
    ("text", "limit", "value"),
    [
        ("0.01", "max_kl", 0.01),
        ("9 bits", "effective_bits", 9.0),
        ("10%", "max_bf16_share", 0.1),
    ],
)
def test_budgets(text: str, limit: str, value: float) -> None:
    own = draft()
    own.solve(text)
    assert (own.objective.limit, own.objective.value, own.objective.preset) == (limit, value, None)
    own.solve("safe")
    assert own.objective.preset == "safe"
    own.solve("")
    assert own.objective.preset == "balanced"
    assert set(own.step.terms) == set(make_plan(small())[0].terms())


@pytest.mark.parametrize("text", ["much", "-1", "nan", "7 bits", "1e-9"])
def test_budgets_that_cannot_be(text: str) -> None:
    own = draft(settings=PlanSettings(max_kl=0.5, kept=("*",)))
    before = own.step
    with pytest.raises(BadInput):
        own.solve(text)
    assert own.step is before


# ---- files


def test_a_changed_plan_says_so_and_is_read_back(tmp_path: Path) -> None:
    own = draft()
    own.set(DOWN, "bf16")
    own.set(QKV, "fp8_smooth")
    own.set_cache(True)
    assert own.changed
    plan, factors = own.plan()
    assert plan.summary.startswith("changed by hand; ")
    assert plan.notes[0] == (
        "changed by hand: layers.0.self_attn.qkv (fp8_smooth), layers.0.mlp.down (bf16)"
    )
    assert plan.objective.kv_cache == "fp8"
    reasons = {one.name: one for one in plan.groups}
    assert reasons[DOWN].reason.startswith("set by hand: FP8 (")
    assert reasons[DOWN].evidence.asked == BY_HAND
    assert reasons[DOWN].evidence.share is None
    assert reasons[group(1, "o")].evidence.asked is None
    path = tmp_path / "plan.json"
    written = write_plan(plan, factors, path)
    again = read_plan(path)
    assert again == written
    assert read_factors(again, path).keys() == factors.keys()
    opened = Draft(small(), again)
    assert opened.step.terms == own.step.terms
    assert opened.predicted == own.predicted
    assert opened.step.pins == {DOWN, QKV}
    assert not opened.changed
    assert opened.plan()[0] is again
    opened.steps.then(replace(opened.step, pins=frozenset()))
    assert plan_text(opened.plan()[0]) != plan_text(again)


def test_the_budget_of_a_preset_is_read_back(tmp_path: Path) -> None:
    """With what costs much pinned to FP8 the preset comes to more than without."""
    own = draft(settings=PlanSettings(preset="balanced"))
    meant = own.objective.value
    own.set(DOWN, PLAIN)
    own.solve("balanced")
    assert own.objective.value > meant
    path = tmp_path / "plan.json"
    plan = write_plan(*own.plan(), path)
    opened = Draft(small(), read_plan(path))
    assert opened.objective == own.objective == plan.objective
    opened.set_cache(True)
    assert opened.plan()[0].objective.value == own.objective.value
    opened.solve("balanced", keep_pins=False)
    assert opened.objective.value < own.objective.value


def test_a_plan_over_its_budget_says_so() -> None:
    own = draft()
    own.set(DOWN, "fp8_tensor")
    notes = own.plan()[0].notes
    assert any("over the 0.02 that was asked for" in note for note in notes)


def test_a_plan_is_gone_on_with_as_it_was_asked() -> None:
    settings = PlanSettings(
        effective_bits=9,
        gpu="l40s",
        kept=("*0.mlp.down",),
        excluded=("*1.mlp.down",),
        candidates=DEFAULT_CANDIDATES[:2],
        kv_cache="auto",
    )
    plan, _ = make_plan(small(), settings)
    own = Draft(small(), plan)
    assert own.step.maker.settings == settings
    own.set(group(1, "down"), "fp8_smooth")  # what a person says comes before the patterns
    made, factors = own.plan()
    check_whole(made, factors, small())
    assert made.objective == plan.objective
    assert made.cost == plan.cost


def test_plans_of_other_models_and_profiles() -> None:
    plan, _ = make_plan(small(), SETTINGS)
    other = invented.with_nats(
        invented.profile(model=invented.MODEL | {"weights_hash": "e" * 64}), lambda _: 0.1
    )
    with pytest.raises(Stale, match="another fine-tune"):
        Draft(other, plan)
    poorer = invented.with_nats(invented.profile(), lambda _: 0.001, (PLAIN,))
    with pytest.raises(Stale, match="asks for what was not scored"):
        Draft(poorer, plan)
    richer = invented.with_nats(invented.profile(), invented.random_nats(3))
    own = Draft(richer, plan)
    assert own.notes == ("the plan is of another profile of this model: numbers are this one's",)
    assert set(own.step.terms) == set(plan.terms())
    assert isinstance(own.plan()[0], Plan)
    assert own.plan()[0] is not plan
