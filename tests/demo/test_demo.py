"""The demo that comes with the package: its plants change no logit and are found, all and alone."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fp8scope.analyze.measures import SiteMeasures, measure_sites
from fp8scope.analyze.thresholds import CAST_ROLES, DAMAGED_DB
from fp8scope.demo.build import read_batches, same_logits
from fp8scope.demo.damage import damage
from fp8scope.demo.files import DEMO_MODEL, DEMO_TEXT
from fp8scope.demo.plant import scale_norm, scale_product, silence
from fp8scope.profile.reader import open_profile

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
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteMeasures]:
    """What a scan of the whole demo says, by site; shared inputs under every reader's name."""
    from fp8scope.cli.app import main

    path = tmp_path_factory.mktemp("demo") / "demo.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["fp8scope", "scan", "demo", "-o", str(path), "--json"])
        main()
    return {
        f"{name} {row.site.role}": row
        for row in measure_sites(open_profile(path))
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


@pytest.mark.slow
def test_the_stated_damage_is_what_is_measured() -> None:
    for name, model in (("planted", demo_model()), ("reference", reference())):
        for tag, values in damage(model, texts()).items():
            stated = MANIFEST["measured"][name][tag]
            for measure, value in values.items():
                assert value == pytest.approx(stated[measure], rel=0.05), (name, tag, measure)
