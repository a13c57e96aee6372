"""`analyze` from the command line, on a scan of a real, small model."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import fp8scope as package
from fp8scope.profile.writer import write_profile
from tests import models
from tests.cli.conftest import Fp8scope

README = Path(__file__).parents[2] / "README.md"
K_PROJ = "model.layers.0.self_attn.k_proj"


def plant(model: Any, layer: int, channel: int, factor: float) -> None:
    """An outlier channel before q, k and v that leaves the model's function as it was.

    The norm's weight grows by a power of two and the columns that read it shrink by it.
    """
    block = model.model.layers[layer]
    with torch.no_grad():
        block.input_layernorm.weight[channel] *= factor
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(block.self_attn, name).weight[:, channel] /= factor


def planted(folder: Path, factor: float) -> Path:
    model: Any = models.build("llama")
    model.to(torch.bfloat16)
    ids = models.token_ids(4, 24)
    before = models.logits(model, ids)
    plant(model, 1, 3, factor)
    assert torch.equal(models.logits(model, ids), before)
    batches = [{"input_ids": ids[:2], "tag": "prose"}, {"input_ids": ids[2:], "tag": "code"}]
    package.scan(model, batches, output=folder / "planted.h5", sensitivity="none")
    return folder / "planted.h5"


def test_a_planted_outlier_is_found(fp8scope: Fp8scope, tmp_path: Path) -> None:
    ran = fp8scope("analyze", planted(tmp_path, 2.0**20), "--sites")
    assert ran.code == 0
    verdict = " ".join(ran.out.split())
    assert "1 damaged (body SQNR under 25 dB), worst layers.1.self_attn.q_proj input" in verdict
    rows = ran.out[ran.out.index("─") :].splitlines()[1:]
    assert rows[0].split()[:3] == ["layers.1.self_attn.q_proj", "input", "+2"]
    ran = fp8scope("analyze", tmp_path / "planted.h5", "--layer", "layers.1.self_attn.q_proj")
    channels = ran.out[ran.out.index("largest channels") :].splitlines()[3:]
    assert channels[0].split()[0] == "3"


def test_an_outlier_of_128_is_no_alarm(fp8scope: Fp8scope, tmp_path: Path) -> None:
    path = planted(tmp_path, 128)
    assert "all at the rounding floor" in fp8scope("analyze", path, "--sites").out
    assert "Nothing to exclude: none of" in fp8scope("analyze", path).out


@pytest.fixture
def path(scan: Fp8scope, tmp_path: Path) -> Path:
    assert scan("--record", "full", "--sensitivity", "none").code == 0
    return tmp_path / "out.h5"


def test_the_whole_profile_as_json(fp8scope: Fp8scope, path: Path) -> None:
    whole = json.loads(fp8scope("analyze", path, "--json").out)
    assert len(whole["rows"]) == whole["sites"] == whole["activation_sites"] + whole["weights"]
    assert whole["verdict"]["damaged"] == []
    only = json.loads(fp8scope("analyze", path, "--json", "--role", "k", "--sort", "underflow").out)
    rates = [row["underflow_rate"] for row in only["rows"]]
    assert {row["role"] for row in only["rows"]} == {"k"}
    assert rates == sorted(rates, reverse=True)


def test_one_layer_as_json(fp8scope: Fp8scope, path: Path) -> None:
    data = json.loads(fp8scope("analyze", path, "--layer", K_PROJ, "--json").out)
    assert data["module"] == K_PROJ
    assert [row["role"] for row in data["sites"]] == ["input", "output", "weight"]
    shared = data["sites"][0]
    assert shared["module"] == K_PROJ.replace("k_proj", "q_proj")
    assert list(shared["errors"]) == ["tensor", "token", "block of 128 channels"]
    assert all(error["body_sqnr_db"] > 28 for error in shared["errors"].values())
    assert len(shared["top"]["other_tokens"]) == 32


def test_one_layer_as_tables(fp8scope: Fp8scope, path: Path) -> None:
    ran = fp8scope("analyze", path, "--layer", K_PROJ)
    assert "also read by model.layers.0.self_attn.k_proj" in ran.out
    assert "text.txt:1" in ran.out
    assert ran.out == fp8scope("analyze", path, "--layer", "layers.0.self_attn.k_proj").out
    heads = fp8scope("analyze", path, "--layer", "layers.1.self_attn").out
    assert heads.count("by KV head") == 2


def test_a_layer_that_is_not_there(fp8scope: Fp8scope, path: Path) -> None:
    for name, said in (("k_proj", "2 modules are called k_proj"), ("kproj", "no module kproj")):
        ran = fp8scope("analyze", path, "--layer", name)
        assert (ran.code, ran.out) == (2, "")
        assert said in ran.refusal
        assert K_PROJ in ran.refusal


def test_notes_are_shown_when_asked_for(fp8scope: Fp8scope, path: Path) -> None:
    profile = package.read_profile(path)
    profile.notes = ("2 linears never ran",)
    noted = path.with_name("noted.h5")
    write_profile(profile, noted)
    assert fp8scope("analyze", noted).err == ""
    assert fp8scope("analyze", noted, "--notes").err == "note: 2 linears never ran\n"


@pytest.mark.parametrize("rows", ["0", "-3", "x"])
def test_rows_must_be_one_or_more(rows: str, fp8scope: Fp8scope, tmp_path: Path) -> None:
    ran = fp8scope("analyze", tmp_path / "none.h5", "--rows", rows)
    assert ran.code == 2
    assert "--rows" in ran.refusal


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("200", 200), ("", 120)])
def test_columns_set_the_width_where_there_is_no_terminal(
    columns: str, width: int, fp8scope: Fp8scope, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = fp8scope("analyze", path, "--sites").out.splitlines()
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) > {80: 70, 120: 110, 200: 130}[width]


def test_every_order_and_role_can_be_asked_for() -> None:
    from fp8scope.analyze.verdict import ORDERS
    from fp8scope.cli.analyze import ROLES, SORTS
    from fp8scope.core.sites import Role

    assert tuple(ORDERS) == SORTS
    assert set(ROLES) == {str(role) for role in Role}


def test_a_profile_does_not_flood_the_screen(path: Path) -> None:
    shown = repr(package.open_profile(path))
    assert "tags text" in shown
    assert len(shown) < 300


def test_experts_are_shown_and_in_json(fp8scope: Fp8scope, tmp_path: Path) -> None:
    path = tmp_path / "moe.h5"
    scan = partial(package.scan, output=path, sensitivity="none")
    scan(models.build("mixtral"), [models.token_ids(2, 12)])
    shown = " ".join(fp8scope("analyze", path).out.split())
    assert "8 routed experts in 2 layers" in shown
    found = json.loads(fp8scope("analyze", path, "--json").out)["experts"]
    assert {row["module"] for row in found} == {f"model.layers.{i}.mlp.experts" for i in (0, 1)}
    assert all(sum(row["tokens"]) == 2 * 24 for row in found)
    path.unlink()
    scan(models.build("llama"), [models.token_ids(2, 12)])
    assert "experts" not in fp8scope("analyze", path).out
    assert "experts" not in json.loads(fp8scope("analyze", path, "--json").out)
