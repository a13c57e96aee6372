"""What ModelOpt says of its own export, and what stands there instead.

Each test shows the trap first: without it, what is written in its place would prove nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import write_plan
from fp8scope.build import modelopt
from fp8scope.build.api import Built, build_checkpoint
from fp8scope.checkpoint.planned import planned_model
from tests.build.planned import mixed_plan, scanned

MIXED = ("fp8_token", "fp8_tensor", "bf16")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """ModelOpt's own hf_quant_config.json, as it was before it is replaced."""
    honest, found = modelopt.export, {}

    def listening(model: Any, folder: Path, most: int) -> None:
        honest(model, folder, most)
        found.update(json.loads((folder / "hf_quant_config.json").read_text())["quantization"])

    monkeypatch.setattr(modelopt, "export", listening)
    return found


def built(name: str, mix: tuple[str, ...], folder: Path, **wishes: Any) -> tuple[Plan, Built]:
    plan, factors = mixed_plan(scanned(name), mix, **wishes)
    write_plan(plan, factors, folder / "plan.json")
    where = str(scanned(name).folder)
    return plan, build_checkpoint(folder / "plan.json", folder / "fp8", model=where)


def nested(made: Built) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made.folder / "hf_quant_config.json").read_text())
    return dict(found["quantization"])


def in_bf16(plan: Plan) -> set[str]:
    return {module.name for module in planned_model(plan).modules if module.wanted == "bf16"}


def in_fp8(plan: Plan) -> dict[str, str]:
    words = {"fp8_tensor": "FP8", "fp8_token": "FP8_PER_CHANNEL_PER_TOKEN"}
    modules = planned_model(plan).modules
    return {m.name: words[str(m.wanted)] for m in modules if m.wanted != "bf16"}


def test_a_mix_names_what_stays_in_bf16(said: dict[str, Any], tmp_path: Path) -> None:
    """ModelOpt lists what is quantized alone, so that engines take the rest by guess."""
    plan, made = built("llama", MIXED, tmp_path, cache=False)
    assert said["quant_algo"] == "MIXED_PRECISION"
    assert not set(said.get("exclude_modules", ())) & (in_bf16(plan) - {"lm_head"})
    assert set(nested(made)["exclude_modules"]) == in_bf16(plan)
    listed = nested(made)["quantized_layers"]
    assert {name: row["quant_algo"] for name, row in listed.items()} == in_fp8(plan)


def test_names_are_never_collapsed_into_globs(said: dict[str, Any], tmp_path: Path) -> None:
    """`model.layers.1*` would reach layers.10 as well."""
    plan, made = built("llama", ("fp8_tensor", "bf16", "bf16", "bf16"), tmp_path, cache=False)
    assert any("*" in name for name in said["exclude_modules"]), said
    assert set(nested(made)["exclude_modules"]) == in_bf16(plan)


def test_experts_in_bf16_are_named(said: dict[str, Any], tmp_path: Path) -> None:
    """One by one, and together as SGLang asks for them."""
    plan, made = built("mixtral", ("fp8_tensor", "bf16", "fp8_tensor", "bf16"), tmp_path)
    experts = {name for name in in_bf16(plan) if ".experts." in name}
    assert len(experts) == 2 * 4 * 3
    assert not experts & set(said["exclude_modules"])
    together = {f"model.layers.{n}.block_sparse_moe.experts" for n in (0, 1)}
    assert set(nested(made)["exclude_modules"]) == in_bf16(plan) | together


def test_a_plan_can_be_built_again(tmp_path: Path) -> None:
    """An export turns weights into codes, in place: each build loads the model anew."""
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        built("llama", MIXED, tmp_path / str(number))
    files = [(tmp_path / n / "fp8" / "model.safetensors").read_bytes() for n in ("1", "2")]
    assert files[0] == files[1]
