"""Causes in scanned models with known plants: every kind, strength and layer, and the demo's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fp8scope
from fp8scope.analyze.cause import Cause, SiteCause, site_cause
from fp8scope.analyze.thresholds import CAST_ROLES, OUTLIER_RATIO
from fp8scope.core.sites import Role, Site
from fp8scope.demo.build import read_batches, same_logits
from fp8scope.demo.files import DEMO_MODEL, DEMO_TEXT
from fp8scope.profile.record import Profile
from tests import planting
from tests.planting import KINDS, LAYERS, MODELS

needs_data = pytest.mark.skipif(
    not planting.DATA.is_dir(), reason=f"the trained models are not here ({planting.DATA})"
)
STRENGTHS = (1e4, 1e5, 1e6)


def causes(profile: Profile) -> dict[Site, SiteCause]:
    """Of every site that FP8 casts."""
    sites = [site for site in profile.sites if site.role in CAST_ROLES]
    sites += [Site(module, Role.WEIGHT) for module in profile.weights]
    return {site: site_cause(profile, site) for site in sites}


def scan(name: str, model: Any) -> Profile:
    profile: Profile = fp8scope.scan(
        model, planting.batches(name), tokenizer=planting.load(name)[1], sensitivity="none"
    )
    return profile


def rotation(turn: int) -> dict[int, str]:
    """A kind for every layer; over all turns, every kind in every layer."""
    kinds = list(KINDS)
    return {layer: kinds[(layer + turn) % len(kinds)] for layer in range(LAYERS)}


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("turn", range(len(KINDS)))
@pytest.mark.parametrize("strength", STRENGTHS, ids=lambda strength: f"{strength:.0e}")
@pytest.mark.parametrize("name", MODELS)
def test_every_plant_has_its_cause_and_nothing_else_has_one(
    name: str, strength: float, turn: int
) -> None:
    plan = rotation(turn)
    model, _, plants = planting.planted(name, plan, strength)
    profile = scan(name, model)
    found = causes(profile)
    assert found.keys() >= {site for plant in plants.values() for site in plant.shows}
    for layer, plant in plants.items():
        for site, cause in plant.shows.items():
            reached = found[site].ratio >= OUTLIER_RATIO
            # a weight's row, or V, follows the activation at some distance
            assert reached or site != plant.site, (plan[layer], site)
            expected = cause if reached else Cause.ROUNDING
            assert found.pop(site).cause is expected, (plan[layer], site)
        assert plant.channel in _named(profile, plant), plan[layer]
    assert {str(site) for site, each in found.items() if each.cause is not Cause.ROUNDING} == set()


def _named(profile: Profile, plant: planting.Planted) -> list[int]:
    """The channels that the cause names, as those of the fold where there is one."""
    found = site_cause(profile, plant.site)
    numbers = [line.index for line in found.lines]
    return [found.fold.consumer_channels()[i] for i in numbers] if found.fold else numbers


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("turn", range(len(KINDS)))
@pytest.mark.parametrize("name", MODELS)
def test_what_e4m3_holds_with_ease_is_plain_rounding(name: str, turn: int) -> None:
    model, _, _ = planting.planted(name, rotation(turn), 1e2)
    assert {found.cause for found in causes(scan(name, model)).values()} == {Cause.ROUNDING}


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_without_plants_have_plain_rounding_everywhere(name: str) -> None:
    found = causes(scan(name, planting.load(name)[0]))
    assert {each.cause for each in found.values()} == {Cause.ROUNDING}
    assert max(each.ratio for each in found.values()) < 500


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_planting_changes_no_bit_of_any_logit(name: str, kind: str) -> None:
    plan = dict.fromkeys(range(LAYERS), kind)
    model, reference, _ = planting.planted(name, plan, 1e6)
    for dtype in (torch.float32, torch.bfloat16):
        assert same_logits(model, reference, list(planting.texts(name).values()), dtype), dtype


DEMO_CAUSES = {
    ("norm", "input"): Cause.FIXED_CHANNEL,
    ("product", "input"): Cause.PRODUCT_CHANNEL,
    ("product", "weight"): Cause.WEIGHT_ROW,
    ("neuron", "input"): Cause.FIRST_TOKEN,
}


@pytest.fixture(scope="module")
def demo() -> dict[Site, SiteCause]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: Any = AutoModelForCausalLM
    model = source.from_pretrained(DEMO_MODEL, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    texts = read_batches(model, tokenizer, Path(DEMO_TEXT))
    batches = [{"input_ids": ids, "tag": tag} for tag, parts in texts.items() for ids in parts]
    return causes(fp8scope.scan(model, batches, tokenizer=tokenizer, sensitivity="none"))


@pytest.mark.slow
def test_the_demos_plants_have_their_causes(demo: dict[Site, SiteCause]) -> None:
    for plant in json.loads((DEMO_MODEL / "manifest.json").read_text())["plants"]:
        for name in plant["shows"]:
            module, _, role = name.rpartition(" ")
            site = Site(module, Role(role))
            if site not in demo:  # it shares another's input
                continue
            expected = DEMO_CAUSES[plant["kind"], role]
            if plant["tag"]:
                expected = Cause.OTHER_TOKEN
                assert demo[site].tags == (plant["tag"],)
                assert {token.text for token in demo[site].tokens} == {" refund"}
            assert demo[site].cause is expected, name
            assert [line.index for line in demo[site].lines] == [plant["channel"]]
