"""Reported cases through `fp8scope check`."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.cli.conftest import Fp8scope
from tests.export import checkpoints
from tests.export.reported import CASES
from tests.export.reported_models import llama

CONFIGS = Path(__file__).parents[1] / "export" / "cases"


def test_a_checkpoint_whose_list_does_nothing(fp8scope: Fp8scope, tmp_path: Path) -> None:
    """sglang#36596: exit code 1, and -o writes what works."""
    stored = llama("fp8_tensor", "q_proj", "k_proj", "v_proj")
    quantization = json.loads((CONFIGS / "sglang-36596.json").read_text())
    folder = checkpoints.write(tmp_path / "model", "LlamaForCausalLM", stored, quantization)
    ran = fp8scope("check", folder, "--for", "sglang", "-o", tmp_path / "mended.json")
    assert ran.code == 1
    assert "ignore “*.self_attn.q_proj”, “*.self_attn.k_proj”" in ran.out
    assert ran.refusal.startswith(
        "fp8scope: 2 of the 9 layers of sglang will not run as the tensors of"
    )
    again = fp8scope(
        "check", tmp_path / "mended.json", "--for", "sglang", "--model", folder, "--json"
    )
    assert again.code == 0, again.out
    said = json.loads(again.out)
    assert (said["holds"], len(said["layers"]), said["faults"]) == (True, 9, [])


def test_a_recipe_whose_list_does_nothing(fp8scope: Fp8scope, tmp_path: Path) -> None:
    """llm-compressor#1428: a prefix that is no longer there."""
    case = next(case for case in CASES if case.consumer == "llm-compressor")
    model = checkpoints.write(tmp_path / "model", case.architecture, case.stored)
    recipe = CONFIGS / f"{case.name}.yaml"
    ran = fp8scope("check", recipe, "--for", "llm-compressor", "--model", model, "--json")
    assert ran.code == 1
    said = json.loads(ran.out)
    assert [fault["kind"] for fault in said["faults"]] == ["nothing"]
    entry = {"where": "QuantizationModifier ignore", "text": "re:visual.*"}
    assert said["faults"][0]["patterns"] == [entry]
    assert said["faults"][0]["layers"] == list(case.differ)
    mended = yaml.safe_load(said["corrected"]["forms"]["yaml"]["text"])
    modifier = mended["quant_stage"]["quant_modifiers"]["QuantizationModifier"]
    assert tuple(modifier["ignore"]) == case.lists
