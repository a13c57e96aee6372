"""What is written for Transformer Engine's debug tool, and what that makes of configs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fp8scope.core.modules import Model
from fp8scope.export.consumer import CannotExpress, CannotRead, Config, Outcome
from fp8scope.export.consumers import transformer_engine as te
from fp8scope.export.proof import prove
from tests.export.shapes import DOWN0, check_golden, llama, mixtral, phi3, planned

OFF = {"transformer_engine": {"DisableQuantizationLayer": {"enabled": True}}}
QKV1 = "model.layers.1.self_attn.qkv_proj"


def _outcomes(model: Model, data: dict[str, Any]) -> dict[str, Outcome]:
    reading = te.read(Config("transformer-engine", data, "somebody's"), model, "2.20.2")
    return {layer.name: reading.outcome(layer) for layer in reading.layers}


def _section(**layers: Any) -> dict[str, Any]:
    return {"enabled": True, "layers": layers, **OFF}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("llama", planned(llama(), "fp8_tensor", [DOWN0, QKV1])),
        ("phi3", planned(phi3(), "fp8_block", ["model.layers.1.mlp.gate_up_proj"])),
        ("mixtral", planned(mixtral(), "fp8_tensor", ["model.layers.0.mlp.experts"])),
    ],
)
def test_written_files_do_just_what_is_wanted(name: str, model: Model) -> None:
    document = te.write(model)
    for form, text in document.forms.items():
        parsed = Config("transformer-engine", yaml.safe_load(text.text), form)
        proof = prove(te.read(parsed, model, "2.20.2"))
        assert proof.holds, (form, proof.faults)
        check_golden(f"transformer-engine-{name}-{form}", text)


def test_names_of_every_naming() -> None:
    forms = te.write(planned(llama(), "fp8_tensor", [DOWN0, QKV1])).forms
    assert {form: list(yaml.safe_load(text.text)) for form, text in forms.items()} == {
        "yaml": [
            "bf16 model.model.layers.0.mlp.down_proj",
            *(f"bf16 model.model.layers.1.self_attn.{n}_proj" for n in "qkv"),
            "bf16 model.lm_head",
        ],
        "transformer-layer": [
            "bf16 model.model.layers.1.layernorm_mlp.fc2",
            "bf16 model.model.layers.2.self_attention.layernorm_qkv",
        ],
        "megatron": [
            "bf16 model.module.module.decoder.layers.1.mlp.linear_fc2",
            "bf16 model.module.module.decoder.layers.2.self_attention.linear_qkv",
        ],
    }


def test_experts_have_names_in_megatron_only() -> None:
    forms = te.write(planned(mixtral(), "fp8_tensor", ["model.layers.0.mlp.experts"])).forms
    assert list(forms) == ["megatron"]
    sections = yaml.safe_load(forms["megatron"].text)
    regexes = [each["layers"]["layer_name_regex_pattern"] for each in sections.values()]
    at = r"(?:^|\.)decoder\.layers\.1\.mlp\.experts"
    assert regexes == [rf"{at}\.linear_fc{n}\.gemm_\d+$" for n in (1, 2)]


@pytest.mark.parametrize(
    ("model", "what", "remedy"),
    [
        (planned(llama(), "fp8_token"), "no recipe for FP8 per token", "fp8_block"),
        (
            llama().with_wanted(lambda m: "fp8_block" if m.name == DOWN0 else "fp8_tensor"),
            "one recipe for a model",
            "--to compressed-tensors",
        ),
        (llama().with_wanted(lambda _: "fp8_tensor"), "nothing is to be excluded", "BF16"),
    ],
)
def test_refusals_name_the_nearest(model: Model, what: str, remedy: str) -> None:
    with pytest.raises(CannotExpress) as refusal:
        te.write(model)
    assert what in str(refusal.value)
    assert remedy in (refusal.value.remedy or "")


def test_a_split_qkv_can_only_be_said_where_linears_are_apart() -> None:
    split = planned(llama(), "fp8_tensor", ["model.layers.0.self_attn.q_proj"])
    assert list(te.write(split).forms) == ["yaml"]


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        ({"layer_types": ["down_proj"]}, 2),
        ({"layer_types": ["layers.1"]}, 7),
        ({"layer_numbers": [1], "layer_types": ["mlp"]}, None),  # lm_head has no number
        ({"layer_name_regex_pattern": r"layers.1"}, 7),
        ({"layer_types": ["all"]}, 15),
    ],
)
def test_which_layers(layers: dict[str, Any], kept: int | None) -> None:
    found = _outcomes(planned(llama(), "fp8_tensor"), {"mine": _section(**layers)})
    if kept is None:
        assert "no single number" in found["model.lm_head"].error
        assert found["model.model.layers.1.mlp.up_proj"].treatment == "bf16"
        assert found["model.model.layers.0.mlp.up_proj"].treatment == "fp8_tensor"
    else:
        assert sum(outcome.treatment == "bf16" for outcome in found.values()) == kept


def test_exact_layer_names_raise_for_every_other_layer() -> None:
    name = f"model.{DOWN0}"
    found = _outcomes(llama(), {"mine": _section(exact_layer_names=[name])})
    assert found[name].treatment == "bf16"
    assert sum("exact_layer_names raises" in each.error for each in found.values()) == 14


def test_two_sections_for_one_layer_raise() -> None:
    data = {"a": _section(layer_types=["mlp"]), "b": _section(layer_types=["down_proj"])}
    assert "sections “a” and “b” both match" in _outcomes(llama(), data)[f"model.{DOWN0}"].error
    data["a"]["enabled"] = False
    assert _outcomes(llama(), data)[f"model.{DOWN0}"].treatment == "bf16"


@pytest.mark.parametrize(
    ("feature", "treatment"),
    [
        ({"DisableFP8Layer": {"enabled": True}}, "bf16"),
        ({"DisableQuantizationLayer": {"enabled": False}}, "fp8_tensor"),
        ({"DisableQuantizationGEMM": {"enabled": True, "gemms": ["fprop"]}}, "bf16"),
        ({"DisableFP8GEMM": {"enabled": True, "gemms": ["wgrad", "dgrad"]}}, "fp8_tensor"),
        ({"DisableFP8GEMM": {"enabled": True, "gemms_struct": [{"gemm": "fprop"}]}}, "bf16"),
        ({"FakeQuant": {"enabled": True, "gemms": ["fprop"]}}, "other"),
        ({"LogTensorStats": {"enabled": True, "stats": ["min"]}}, "fp8_tensor"),
    ],
)
def test_features(feature: dict[str, Any], treatment: str) -> None:
    section = {"enabled": True, "layers": {"layer_types": ["down"]}, "transformer_engine": feature}
    found = _outcomes(planned(llama(), "fp8_tensor"), {"mine": section})
    assert found[f"model.{DOWN0}"].treatment == treatment


def test_the_naming_is_that_in_which_most_entries_match() -> None:
    data = {"mine": _section(layer_name_regex_pattern=r"decoder\.layers\.1\.mlp\.linear_fc2$")}
    found = _outcomes(planned(llama(), "fp8_tensor"), data)
    name = "model.module.module.decoder.layers.1.mlp.linear_fc2"
    assert found[name].treatment == "bf16"
    assert found[name.replace("layers.1", "layers.2")].treatment == "fp8_tensor"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ([], "no sections"),
        ({}, "no section that is enabled"),
        ({"a": {"layers": {}}}, "no “enabled”"),
        ({"a": {"enabled": True, "layers": {}}}, "which layers"),
        ({"a": {"enabled": True, "layers": {"layer_numbers": 3}}}, "is a number"),
        ({"a": {**_section(layer_types=["x"]), "transformer_engine": {"Off": {}}}}, "feature Off"),
    ],
)
def test_malformed(data: Any, what: str) -> None:
    with pytest.raises(CannotRead, match=what):
        te.read(Config("transformer-engine", data, "x"), llama(), "2.20.2")
