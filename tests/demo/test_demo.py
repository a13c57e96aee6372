"""The demo that comes with the package: its plants change no logit and are found, all and alone."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fp8scope.analyze.analysis import Analysis, analyze_profile
from fp8scope.analyze.cause import Cause
from fp8scope.analyze.kvcache import Safety
from fp8scope.analyze.measures import SiteMeasures, measure_sites
from fp8scope.analyze.thresholds import CAST_ROLES, DAMAGED_DB, HARM_NATS
from fp8scope.core.sites import Role
from fp8scope.demo.build import read_batches, same_logits
from fp8scope.demo.damage import damage
from fp8scope.demo.files import DEMO_MODEL, DEMO_TEXT
from fp8scope.demo.plant import scale_norm, scale_product, silence
from fp8scope.profile.reader import read_profile
from fp8scope.profile.record import Profile
from tests.shared import whole_demo

MANIFEST = json.loads((DEMO_MODEL / "manifest.json").read_text())
PLANTS = {plant["name"]: plant for plant in MANIFEST["plants"]}
SHOWN = {site for plant in MANIFEST["plants"] for site in plant["shows"]}


@cache
def demo_model() -> Any:
    source: Any = AutoModelForCausalLM
    return source.from_pretrained(DEMO_MODEL, dtype=torch.bfloat16).eval()


@cache
def texts() -> dict[str, list[torch.Tensor]]:
    return read_batches(demo_model(), AutoTokenizer.from_pretrained(DEMO_MODEL), DEMO_TEXT)


def reference() -> Any:
    """The demo without its plants: every power of two taken back, the neurons' rows set to zero."""
    source: Any = AutoModelForCausalLM
    model = source.from_pretrained(DEMO_MODEL, dtype=torch.bfloat16).eval()
    norms = {"fixed channel before attention": "input_layernorm"}
    for plant in MANIFEST["plants"]:
        layer, channel, power = plant["layer"], plant["channel"], -plant["log2_factor"]
        if plant["kind"] == "norm":
            norm = norms.get(plant["name"], "post_attention_layernorm")
            scale_norm(model, layer, norm, channel, power)
        elif plant["kind"] == "product":
            scale_product(model, layer, channel, power)
        else:
            silence(model, layer, channel)
            mlp = model.model.layers[layer].mlp
            with torch.no_grad():
                mlp.gate_proj.weight[channel] = 0
                mlp.up_proj.weight[channel] = 0
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_plants_change_no_bit_of_any_logit(dtype: torch.dtype) -> None:
    batches = [ids for parts in texts().values() for ids in parts[:3]]
    assert same_logits(demo_model(), reference(), batches, dtype)


def test_the_model_is_small() -> None:
    assert sum(path.stat().st_size for path in DEMO_MODEL.iterdir()) < 2e6


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """A scan of the whole demo, second pass and all."""
    return read_profile(whole_demo(tmp_path_factory))


@pytest.fixture(scope="module")
def rows(profile: Profile) -> dict[str, SiteMeasures]:
    """What that says by site; shared inputs under every reader's name."""
    return {
        f"{name} {row.site.role}": row
        for row in measure_sites(profile)
        for name in row.shared_by
        if row.site.role in CAST_ROLES
    }


def test_the_plants_are_found_and_nothing_else(rows: dict[str, SiteMeasures]) -> None:
    damaged = {name for name, row in rows.items() if row.error.body_sqnr_db < DAMAGED_DB}
    assert damaged == SHOWN
    assert {name for name, row in rows.items() if row.outlier_ratio > 2.5e4} == SHOWN


def test_planted_inputs_stand_where_they_were_planted(rows: dict[str, SiteMeasures]) -> None:
    for plant in MANIFEST["plants"]:
        for name in plant["shows"]:
            row = rows[name]
            if name.endswith("input"):
                assert 4.5e5 < row.outlier_ratio < 1.1e6, name
                assert row.worst is not None
                assert row.worst.channel == plant["channel"], name


def test_the_harmless_channel_does_not_alarm(rows: dict[str, SiteMeasures]) -> None:
    plant = PLANTS["harmless channel"]
    row = rows[f"{plant['groups'][0][0]} input"]
    assert row.worst is not None
    assert row.worst.channel == plant["channel"]
    assert 100 < row.outlier_ratio < 5e3
    assert row.error.body_sqnr_db > 30


def test_one_plant_lives_in_one_tag(rows: dict[str, SiteMeasures]) -> None:
    plant = PLANTS["one tag's token"]
    (site,) = plant["shows"]
    row = rows[site]
    assert (row.headroom_tag, plant["tag"]) == ("support", "support")
    assert row.headroom is not None
    assert row.headroom < 1e-3
    assert row.worst is not None
    assert row.worst.token.strip() == "refund"


def test_one_plant_is_at_the_first_token(rows: dict[str, SiteMeasures]) -> None:
    (site,) = PLANTS["massive activation at the first token"]["shows"]
    worst = rows[site].worst
    assert worst is not None
    assert worst.position == 0


@pytest.fixture(scope="module")
def found(profile: Profile) -> Analysis:
    return analyze_profile(profile)


def test_the_planted_groups_are_harmful_and_no_other(found: Analysis) -> None:
    shown = {name.partition(" ")[0] for name in SHOWN}
    assert {group.group for group in found.harmful} == {
        group.group for group in found.groups if shown.intersection(group.members)
    }
    assert len(found.harmful) == 5
    harmless = PLANTS["harmless channel"]["groups"][0]
    (group,) = [group for group in found.groups if set(group.members) == set(harmless)]
    assert group.plain is not None
    assert group.plain.kl < HARM_NATS / 3


def test_each_has_the_cause_that_was_planted(found: Analysis) -> None:
    by_member = {name: group for group in found.harmful for name in group.members}
    expected = {
        "fixed channel before attention": ("self_attn.q_proj", Cause.FIXED_CHANNEL),
        "SwiGLU product": ("mlp.down_proj", Cause.PRODUCT_CHANNEL),
        "massive activation at the first token": ("mlp.down_proj", Cause.FIRST_TOKEN),
        "one tag's token": ("mlp.down_proj", Cause.OTHER_TOKEN),
    }
    for name, (module, cause) in expected.items():
        group = by_member[f"model.layers.{PLANTS[name]['layer']}.{module}"]
        assert group.cause.cause is cause, name
        assert [line.index for line in group.cause.lines] == [PLANTS[name]["channel"]], name
    up = by_member["model.layers.3.mlp.up_proj"].cause
    assert (up.cause, up.site.role) == (Cause.WEIGHT_ROW, Role.WEIGHT)
    assert by_member["model.layers.0.mlp.down_proj"].cause.tags == ("support",)


def test_something_cheap_helps_each(found: Analysis) -> None:
    for group in found.harmful:
        plain = group.plain
        assert plain is not None
        cheapest = min(score.kl for score in group.candidates.values())
        assert cheapest < plain.kl / 8, group.group
        if group.smoothed and group.unsmoothed:
            assert group.smoothed.kl < group.unsmoothed / 8, group.group


def test_what_support_brings_the_others_pay_for(found: Analysis) -> None:
    """Its token sets the scale of layer 0 for all; support, which is easy text, suffers least."""
    assert found.tags[-1].tag == "support"
    assert {tag.group for tag in found.tags[:-1]} == {"model.layers.0.mlp.down_proj"}
    stated = MANIFEST["measured"]["planted"]
    for tag in found.tags:  # of other sequences, and a fused group's weights under one scale
        assert tag.whole == pytest.approx(stated[tag.tag]["kl"], rel=0.15), tag.tag


def test_the_whole_demo_is_measured_and_its_cache_is_safe(found: Analysis) -> None:
    assert all(score.measured for score in found.models.values())
    plain, cached = (found.models[name].kl for name in ("fp8_tensor", "fp8_tensor + kv_cache"))
    assert 0.2 < plain < cached < 1.05 * plain
    assert found.models["fp8_smooth"].kl < plain / 20
    assert {layer.calibrated_safety for layer in found.kv_cache} == {Safety.SAFE}


@pytest.mark.slow
def test_the_stated_damage_is_what_is_measured() -> None:
    for name, model in (("planted", demo_model()), ("reference", reference())):
        for tag, values in damage(model, texts()).items():
            stated = MANIFEST["measured"][name][tag]
            for measure, value in values.items():
                assert value == pytest.approx(stated[measure], rel=0.05), (name, tag, measure)
