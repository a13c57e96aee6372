"""plan.json of invented profiles: all follows from the profile, always in the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fp8scope.analyze.scales import Scales
from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import (
    factors_path,
    plan_text,
    read_factors,
    read_plan,
    write_plan,
)
from fp8scope.core.choices import Term
from fp8scope.core.gemms import units
from fp8scope.core.roofline import Workload
from fp8scope.core.sites import Role
from fp8scope.errors import BadInput
from fp8scope.plan.make import Factors, PlanMaker, make_plan
from fp8scope.plan.settings import PlanSettings
from fp8scope.profile.digest import profile_hash
from fp8scope.profile.merge import merge_profiles
from fp8scope.profile.record import Profile
from fp8scope.profile.writer import write_profile
from tests import models
from tests.observe.quantized_models import prepared
from tests.plan import invented
from tests.plan.invented import group, member

GOLDEN = Path(__file__).parent / "golden"
DOCS = Path(__file__).parents[2] / "docs" / "reference"
DOWN, UP = group(0, "down"), group(0, "gate_up")


def nats(term: Term) -> float | list[float]:
    """Down suffers, and smoothing cures it where up takes the factors; o is best left alone."""
    if term.group == DOWN:
        return 0.002 if term.alpha == 0.5 else 0.2
    if term.group == UP:
        return {None: 0.001, 0.5: 0.0015}.get(term.folded, 0.01)
    if term.group == group(1, "o"):
        return [0.05, 0.07, 0.06, 0.05, 0.06, 0.07]
    return 0.001


@cache
def small() -> Profile:
    """Shared: do not change it."""
    return invented.with_nats(invented.profile(), nats)


SETTINGS = PlanSettings(max_kl=0.02, kv_cache="fp8", excluded=("*1.mlp.down",))


@cache
def made() -> tuple[Plan, Factors]:
    return make_plan(small(), SETTINGS)


def numbers(data: Any) -> Iterator[float]:
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            yield from numbers(value)
    elif isinstance(data, float):
        yield data


def by_name(plan: Plan) -> dict[str, Any]:
    return {one.name: one for one in plan.groups}


def close(data: Any, golden: Any) -> Any:
    """`data`, with the golden floats where they differ in their last digits."""
    if isinstance(data, dict) and isinstance(golden, dict):
        return {key: close(value, golden.get(key)) for key, value in data.items()}
    if isinstance(data, list) and isinstance(golden, list) and len(data) == len(golden):
        return [close(*pair) for pair in zip(data, golden, strict=True)]
    same = isinstance(data, float) and isinstance(golden, float)
    return golden if same and data == pytest.approx(golden, rel=1e-9) else data


def test_the_golden_plan(tmp_path: Path) -> None:
    """After a wanted change: UPDATE_GOLDEN=1 pytest tests/plan, and read the diff."""
    plan, factors = made()
    path = tmp_path / "small.json"
    written = write_plan(plan.model_copy(update={"fp8scope": "0"}), factors, path)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / "small.json").write_text(path.read_text())
    golden = (GOLDEN / "small.json").read_text()
    data = close(json.loads(path.read_text()), json.loads(golden))
    assert json.dumps(data, ensure_ascii=False, indent=1) + "\n" == golden
    assert read_plan(path) == written


def test_the_schema_is_that_of_the_classes() -> None:
    schema = json.dumps(Plan.model_json_schema(), indent=1, sort_keys=True) + "\n"
    assert (DOCS / "plan.schema.json").read_text() == schema


def test_what_was_chosen_and_why() -> None:
    plan, _ = made()
    groups = by_name(plan)
    assert (groups[DOWN].precision, groups[DOWN].alpha) == ("fp8_smooth", 0.5)
    assert (groups[UP].precision, groups[UP].folded) == ("fp8_tensor", 0.5)
    assert groups[group(1, "o")].precision == groups[group(1, "down")].precision == "bf16"
    assert groups["lm_head"].precision == "bf16"
    assert groups[DOWN].reason.startswith(
        "smoothing at α 0.5, folded into layers.0.mlp.up, costs 0.0020 ± 5% nats per token, where "
        "one static scale per tensor alone would cost 0.200"
    )
    assert "with the factors of layers.0.mlp.down in its rows costs 0.0015" in groups[UP].reason
    assert groups[group(1, "o")].reason.startswith(
        "FP8 (one static scale per tensor) would cost 0.061 nats per token, 306% of "
    )
    assert "; chosen in 100% of 200 resamples" in groups[group(1, "o")].reason
    assert groups[group(1, "down")].reason.startswith("asked for (exclude): ")
    assert groups["lm_head"].reason == "stays in BF16 unless it is asked for (--keep)"
    assert plan.summary.startswith(
        "2 of 8 groups stay in BF16 (5 with one static scale per tensor, 1"
    )
    assert {cache.precision for cache in plan.kv_cache} == {"fp8"}


def test_numbers_follow_from_the_profile() -> None:
    plan, factors = made()
    scales, of = Scales(small()), small().structure
    assert all(np.isfinite(list(numbers(plan.model_dump(mode="json")))))
    gemms = {gemm.members: gemm for unit in units(of) for gemm in unit.gemms}
    for one in plan.groups:
        assert bool(one.scales) == (one.precision in ("fp8_tensor", "fp8_smooth"))
        for scale in one.scales:
            assert scale.input_amax == scales.input_amax(gemms[scale.members], one.alpha)
            assert scale.input_scale == scale.input_amax / 448
    (fold,) = plan.folds
    assert (fold.producer, fold.consumers) == (member(0, "up"), (member(0, "down"),))
    found = next(each for each in of.folds if each.producer == fold.producer)
    assert np.array_equal(factors[fold.key], scales.factors(found, 0.5))
    assert len(set(factors[fold.key].tolist())) > 1
    assert len(set(factors[fold.key].tolist())) > 1
    for layer, stored in zip(of.kv_layers, plan.kv_cache, strict=True):
        assert stored.k_scale == scales.cache_amax(layer, Role.K) / 448
        assert stored.v_scale == scales.cache_amax(layer, Role.V) / 448


def check_whole(plan: Plan, factors: Factors, of: Profile) -> None:
    """What holds of every plan."""
    groups = by_name(plan)
    inside = [name for one in plan.groups for name in one.members]
    assert sorted(inside) == sorted(module.name for module in plan.modules)
    bf16 = {name for one in plan.groups if one.precision == "bf16" for name in one.members}
    assert set(plan.ignore) == bf16
    assert list(plan.ignore) == [m.name for m in plan.modules if m.name in bf16]
    assert set(factors) == {fold.key for fold in plan.folds}
    alphas = {(fold.producer, fold.rows): fold.alpha for fold in plan.folds}
    assert len(alphas) == len(plan.folds)
    for unit in units(of.structure):
        one = groups[unit.name]
        for gemm in unit.gemms if one.precision != "bf16" else ():
            fold = gemm.input_fold
            assert one.alpha == (fold and alphas.get((fold.producer, fold.rows)))
    for term in plan.terms():
        assert term.alpha is None or term.candidate == "fp8_smooth"
    assert all(np.isfinite(list(numbers(plan.model_dump(mode="json")))))
    assert all(np.isfinite(array).all() and (array > 0).all() for array in factors.values())
    frontier = plan.frontier
    assert [point.kl for point in frontier] == sorted((p.kl for p in frontier), reverse=True)
    assert [p.step_time_us for p in frontier] == sorted(p.step_time_us for p in frontier)


@pytest.mark.parametrize("name", [name for name in models.CONFIGS if "post_norm" not in name])
@pytest.mark.parametrize("cached", [False, True])
def test_plans_of_every_family_are_whole(name: str, cached: bool) -> None:
    """Smoothing pays everywhere, so that it is folded wherever it can be."""
    of = prepared(name).profile
    sequences = len(of.samples["index"])
    draw = invented.random_nats(7, sequences)

    def cost(term: Term) -> float | Sequence[float]:
        return 1e-5 if term.alpha or term.folded else draw(term)

    scored = invented.with_nats(of, cost)
    cache: Any = "fp8" if cached and of.structure.kv_layers else "bf16"
    maker = PlanMaker(scored, PlanSettings(effective_bits=8, kv_cache=cache))
    choice = maker.choose()
    plan, factors = maker.plan(choice)
    check_whole(plan, factors, scored)
    assert set(plan.terms()) == set(choice.terms)
    folds = {f.producer for f in of.structure.folds if f.takes_factors}
    assert bool(plan.folds) == bool(folds)


# ---- the same bytes


def written(of: Profile, path: Path, settings: PlanSettings = SETTINGS) -> tuple[bytes, bytes]:
    plan, factors = make_plan(of, settings)
    write_plan(plan, factors, path)
    beside = factors_path(path)
    return path.read_bytes(), beside.read_bytes() if beside.exists() else b""


def test_twice_the_same_bytes(tmp_path: Path) -> None:
    assert written(small(), tmp_path / "plan.json") == written(small(), tmp_path / "plan.json")


def test_the_same_bytes_in_processes_that_hash_strings_differently(tmp_path: Path) -> None:
    """Two groups give way to two others at once, as often one as the other: in one order."""

    def alike(term: Term) -> list[float]:
        noise = [0.02, 0.20, 0.11, 0.12, 0.10, 0.11]
        kind = term.group.rpartition(".")[2]
        return {"o": noise, "down": noise[1::-1] + noise[2:]}.get(kind, [0.0] * 6)

    of = invented.with_nats(invented.profile(), alike, ("fp8_tensor",))
    write_profile(of, tmp_path / "profile.h5")
    out = []
    for seed in ("1", "2", "3"):
        path = tmp_path / seed / "plan.json"
        path.parent.mkdir()
        subprocess.run(
            [sys.executable, "-m", "fp8scope", "plan", tmp_path / "profile.h5",
             "--effective-bits", "9.34", "-o", path],
            env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True,
        )  # fmt: skip
        out.append(path.read_bytes())
    assert {len(one.evidence.near_ties) for one in read_plan(path).groups} == {0, 2}
    assert out[0] == out[1] == out[2]


def part(text: str, indices: Sequence[int] = range(6), seed: int = 1) -> Profile:
    draw = invented.random_nats(seed)
    return invented.with_nats(
        invented.profile(text=text, indices=indices),
        lambda term: [np.ravel(draw(term))[i] for i in indices],
    )


def test_parts_of_one_text_give_its_plan_in_any_order() -> None:
    whole, a, b = part("novel"), part("novel", (0, 3, 4)), part("novel", (1, 2, 5))
    settings = PlanSettings(max_kl=0.01, kv_cache="fp8")
    plan, factors = make_plan(whole, settings)
    plans = [make_plan(merge_profiles(parts), settings) for parts in ((a, b), (b, a))]
    assert plan_text(plans[0][0]) == plan_text(plans[1][0])
    for merged, its in plans:
        assert merged.groups == plan.groups
        assert (merged.kv_cache, merged.folds) == (plan.kv_cache, plan.folds)
        assert (merged.predicted, merged.frontier) == (plan.predicted, plan.frontier)
        assert its.keys() == factors.keys()
        assert all(np.array_equal(its[key], factors[key]) for key in factors)


def test_merged_texts_give_one_plan_in_any_order() -> None:
    a, b = part("novel"), part("forum", seed=2)
    one, two = (
        make_plan(merge_profiles(p), PlanSettings(max_kl=0.01))[0] for p in ((a, b), (b, a))
    )
    assert one.terms() == two.terms()
    assert (one.folds, one.ignore) == (two.folds, two.ignore)
    assert one.predicted.nats.kl == pytest.approx(two.predicted.nats.kl)
    assert one.predicted.tags.keys() == two.predicted.tags.keys()


def test_the_profile_hash_tells_numbers_and_texts_apart() -> None:
    a = part("novel")
    others = (part("novel", seed=2), part("forum"), replace(a, sensitivity=None))
    hashes = {profile_hash(of) for of in (a, *others)}
    assert len(hashes) == 4
    other = replace(a, environment={"device": "cuda"}, model=a.model | {"name": "copy"})
    assert profile_hash(other) == profile_hash(a)


# ---- settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (PlanSettings(max_kl=0.1, preset="fast"), "a plan has one objective"),
        (PlanSettings(preset="quick"), "no preset quick"),
        (PlanSettings(gpu="abacus"), "abacus"),
        (PlanSettings(kept=("*.o",), excluded=("*.0.self_attn.*",)), "both kept in FP8"),
        (PlanSettings(excluded=("*.o_proj",)), r"\*\.o_proj matches nothing"),
        (PlanSettings(effective_bits=7), "7 bits per weight cannot be had"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned(settings: PlanSettings, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make_plan(small(), settings)


def test_each_objective_is_kept() -> None:
    for settings in (
        PlanSettings(max_kl=0.01),
        PlanSettings(effective_bits=9),
        PlanSettings(max_bf16_share=0.25),
        PlanSettings(preset="fast"),
    ):
        plan, _ = make_plan(small(), settings)
        found, stated = plan.predicted, plan.objective
        reached = {"max_kl": found.nats.kl, "effective_bits": found.effective_bits}
        reached["max_bf16_share"] = found.bf16_share
        assert reached[stated.limit] <= stated.value * (1 + 1e-9)
        assert stated.preset == settings.preset
    plan, factors = make_plan(small(), PlanSettings(max_kl=0.0))
    assert (factors, plan.factors, plan.folds, plan.terms()) == ({}, None, (), ())
    assert "8 of 8 groups stay in BF16: 0.0000" in plan.summary


def test_a_tighter_budget_is_written_down() -> None:
    maker = PlanMaker(small(), PlanSettings(max_kl=0.02))
    plan, _ = maker.plan(maker.choose(0.001), 0.001)
    assert (plan.objective.value, plan.objective.solved_for) == (0.02, 0.001)
    assert plan.predicted.nats.kl <= 0.001
    with pytest.raises(BadInput, match="no KL budget to tighten"):
        PlanMaker(small(), PlanSettings(effective_bits=9)).choose(0.001)


def test_a_workload_changes_times_alone() -> None:
    plans = [
        make_plan(small(), replace(SETTINGS, workload=Workload(batch=batch)))[0]
        for batch in (1, 4096)
    ]
    assert plans[0].predicted.nats == plans[1].predicted.nats
    assert plans[0].predicted.step_time_us < plans[1].predicted.step_time_us


def test_plain_fp8_that_breaks_the_model_is_no_number() -> None:
    of = invented.with_nats(
        invented.profile(), lambda term: float("nan") if term == Term(DOWN, "fp8_tensor") else 0.001
    )
    plan, _ = make_plan(of, PlanSettings(effective_bits=8))
    assert plan.predicted.plain_fp8 is None
    assert by_name(plan)[DOWN].precision != "fp8_tensor"


def test_read_back_with_its_factors(tmp_path: Path) -> None:
    plan, factors = made()
    plan = write_plan(plan, factors, tmp_path / "plan.json")
    found = read_plan(tmp_path / "plan.json")
    stored = read_factors(found, tmp_path / "plan.json")
    assert found == plan
    assert stored.keys() == factors.keys()
    assert all(np.array_equal(stored[key], factors[key]) for key in factors)
