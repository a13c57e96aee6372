"""What is written for transformers, and what it makes of configs."""

from __future__ import annotations

from typing import Any

import pytest

from fp8scope.core.modules import Model
from fp8scope.export.consumer import CannotExpress, CannotRead, Config, Document
from fp8scope.export.consumers import transformers
from fp8scope.export.proof import Proof, prove
from tests.export.shapes import (
    DOWN0,
    check_golden,
    config,
    gpt2,
    llama,
    mixtral,
    phi3,
    plain,
    planned,
)

EXPERTS0 = "model.layers.0.mlp.experts"
LIST = "modules_to_not_convert"


def _proof(model: Model, document: Document) -> Proof:
    return prove(transformers.read(config("transformers", document), model, "5.23.0"))


def _outcomes(model: Model, data: dict[str, Any]) -> dict[str, str | None]:
    reading = transformers.read(Config("transformers", data, "somebody's"), model, "5.23.0")
    return {layer.name: reading.outcome(layer).treatment for layer in reading.layers}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("llama", planned(llama(), "fp8_block", [DOWN0])),
        ("phi3", planned(phi3(), "fp8_token", ["model.layers.1.mlp.gate_up_proj"])),
        ("mixtral", planned(mixtral(), "fp8_block", [EXPERTS0])),
    ],
)
def test_written_files_do_just_what_is_wanted(name: str, model: Model) -> None:
    document = transformers.write(model)
    proof = _proof(model, document)
    assert proof.holds, proof.faults
    for form, text in document.forms.items():
        check_golden(f"transformers-{name}", text)
        assert form in {"json", "python"}


def test_experts_are_named_by_their_module_and_lm_head_is_listed() -> None:
    document = transformers.write(planned(mixtral(), "fp8_block", [EXPERTS0]))
    gates = [f"model.layers.{block}.mlp.gate" for block in range(2)]
    assert sorted(document.config[LIST]) == sorted([EXPERTS0, "lm_head", *gates])


def test_a_name_that_ends_another_is_anchored() -> None:
    twin = plain("tower.model.layers.0.mlp.down_proj", "tower", 256, 512)
    small = llama(1)
    model = Model("two", "Two", "two", (*small.modules, twin))
    model = planned(model, "fp8_block", [DOWN0])
    document = transformers.write(model)
    assert r"^model\.layers\.0\.mlp\.down_proj$" in document.config[LIST]
    assert _proof(model, document).holds


@pytest.mark.parametrize(
    ("model", "what", "remedy"),
    [
        (planned(llama(), "fp8_tensor"), "not FP8 per tensor, static", "compressed-tensors"),
        (planned(mixtral(), "fp8_token"), "no experts FP8 per token", "--to torchao"),
        (planned(llama(wide=320), "fp8_block"), "no multiples of 128", "per token"),
        (planned(gpt2(), "fp8_block"), "nn.Linear only", "BF16"),
        (
            planned(llama(), "fp8_block").with_wanted(
                lambda m: "fp8_token" if m.name == DOWN0 else "fp8_block"
            ),
            "one FP8 scheme",
            "--to torchao",
        ),
        (
            planned(mixtral(), "fp8_block", [f"{EXPERTS0}.down_proj"]),
            "model.layers.0.mlp.experts is one module",
            "alike",
        ),
    ],
)
def test_refusals_name_the_nearest(model: Model, what: str, remedy: str) -> None:
    with pytest.raises(CannotExpress) as refusal:
        transformers.write(model)
    assert what in str(refusal.value)
    assert remedy in (refusal.value.remedy or "")


def test_a_list_replaces_the_usual_exception_of_lm_head() -> None:
    assert _outcomes(llama(), {"quant_method": "fp8"})["lm_head"] == "bf16"
    assert _outcomes(llama(), {"quant_method": "fp8", LIST: [DOWN0]})["lm_head"] == "fp8_block"


def test_names_of_files_are_renamed_but_single_experts_skip_nothing() -> None:
    files = "model.layers.0.block_sparse_moe"
    listed = [f"{files}.experts.{e}.{w}" for e in range(4) for w in ("w1", "w2", "w3")]
    assert _outcomes(mixtral(), {"quant_method": "fp8", LIST: listed})[EXPERTS0] == "fp8_block"
    whole = {"quant_method": "fp8", LIST: [f"{files}.experts"]}
    assert _outcomes(mixtral(), whole)[EXPERTS0] == "bf16"


@pytest.mark.parametrize(
    ("data", "treatment"),
    [
        ({"activation_scheme": "static", "weight_block_size": None}, "fp8_tensor"),
        ({"quant_method": "fp8", "weight_block_size": None}, "fp8_tensor_dynamic"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "other"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, "other"),
        ({"quant_method": "fp8", "dequantize": True}, "bf16"),
        ({"quant_method": "fbgemm_fp8"}, "fp8_token"),
        ({"quant_method": "fp8", "ignored_layers": [DOWN0]}, "bf16"),
        ({"quant_method": "fbgemm_fp8", "ignored_layers": [DOWN0]}, "fp8_token"),
        ({LIST: ["*.down_proj"], "quant_method": "fp8"}, None),
    ],
)
def test_schemes(data: dict[str, Any], treatment: str | None) -> None:
    assert _outcomes(llama(), data)[DOWN0] == treatment


def test_fbgemm_leaves_experts_in_bf16_and_cuts_inputs_off() -> None:
    data = {"quant_method": "fbgemm_fp8", LIST: []}
    assert _outcomes(mixtral(), data)[EXPERTS0] == "bf16"
    reading = transformers.read(Config("transformers", data, "x"), llama(), "5.23.0")
    assert reading.outcome(reading.layers[0]).note == "inputs are cut off at ±1200"


def test_modelopts_metadata_is_ignored_without_an_exception() -> None:
    model = planned(llama(), "fp8_tensor", [DOWN0])
    reading = transformers.read_unknown(Config("hf-quant-config", {}, "x"), model, "5.23.0")
    outcomes = {layer.name: reading.outcome(layer) for layer in reading.layers}
    assert outcomes[DOWN0].treatment == "bf16"
    assert sum("without scales" in outcome.error for outcome in outcomes.values()) == 13


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ([], "no quantization_config"),
        ({"quant_method": "awq"}, "'awq'"),
        ({"quant_method": "fp8", LIST: "lm_head"}, "no list of names"),
    ],
)
def test_malformed(data: Any, what: str) -> None:
    with pytest.raises(CannotRead, match=what):
        transformers.read(Config("transformers", data, "x"), llama(), "5.23.0")
