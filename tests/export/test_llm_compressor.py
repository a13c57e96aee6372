"""What is written for llm-compressor, and what it makes of recipes that people write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from fp8scope.core.modules import Model
from fp8scope.export.consumer import CannotExpress, CannotRead, Config, Outcome, Reading
from fp8scope.export.consumers import llm_compressor
from fp8scope.export.proof import prove
from tests.export.mixes import GPT2, LLAMA, MODELS, PLAIN
from tests.export.shapes import DOWN0, check_golden, config, llama, mixtral, planned

EXPERT = "model.layers.0.mlp.experts.3"


def _read(model: Model, **arguments: Any) -> Reading:
    recipe = {"quant_stage": {"quant_modifiers": {"QuantizationModifier": arguments}}}
    return llm_compressor.read(Config("llm-compressor", recipe, "recipe.yaml"), model, "0.14.0.1")


def _outcomes(reading: Reading) -> dict[str, Outcome]:
    return {layer.name: reading.outcome(layer) for layer in reading.layers}


@pytest.mark.parametrize("name", MODELS)
def test_written_recipes_do_just_what_is_wanted(name: str) -> None:
    model = MODELS[name]
    document = llm_compressor.write(model)
    assert document.kind == "recipe"
    proof = prove(llm_compressor.read(config("llm-compressor", document), model, "0.14.0.1"))
    assert proof.holds, proof.faults
    assert yaml.safe_load(document.forms["yaml"].text) == document.config
    assert ("fold smoothing" in document.forms["yaml"].text) == model.folded
    check_golden(f"llm-compressor-{name}", document.forms["yaml"])


def test_dynamic_scales_per_tensor_are_a_group_of_their_own() -> None:
    model = planned(llama(), "fp8_tensor_dynamic", [DOWN0])
    document = llm_compressor.write(model)
    assert prove(llm_compressor.read(config("llm-compressor", document), model, "")).holds


def test_experts_are_taken_apart() -> None:
    reading = _read(planned(mixtral(), "fp8_tensor"), scheme="FP8", ignore=["lm_head"])
    assert prove(reading).holds
    names = {layer.name for layer in reading.layers}
    assert {f"{EXPERT}.gate_proj", f"{EXPERT}.up_proj", f"{EXPERT}.down_proj"} <= names
    gate = "model.layers.0.mlp.gate"
    reading = _read(planned(mixtral(), "fp8_tensor"), scheme="FP8", targets=[gate])
    assert _outcomes(reading)[gate].note.startswith("it is no nn.Linear")


def test_experts_stacked_in_the_files_are_named_by_an_anchored_expression() -> None:
    stacked = [replace(m, name=m.runtime) for m in mixtral().modules if not m.name.endswith("w3")]
    unique = {module.name: module for module in stacked}
    model = planned(replace(mixtral(), modules=tuple(unique.values())), "fp8_token")
    document = llm_compressor.write(model)
    (modifier,) = document.config["quant_stage"]["quant_modifiers"].values()
    named = [target for target in modifier["scheme"]["FP8_DYNAMIC"] if target.startswith("re:")]
    assert len(named) == 6
    assert named[0] == r"re:^model\.layers\.0\.mlp\.experts\.\d+\.gate_proj$"
    assert prove(llm_compressor.read(config("llm-compressor", document), model, "")).holds


def test_the_files_names_of_experts_match_nothing() -> None:
    name = "model.layers.0.block_sparse_moe.experts.0.w1"
    proof = prove(_read(planned(mixtral(), "fp8_tensor"), scheme="FP8", ignore=["lm_head", name]))
    assert [f.sentence for f in proof.faults] == [
        f"QuantizationModifier ignore “{name}” matches nothing"
    ]


def test_a_forgotten_head_is_quantized() -> None:
    found = _outcomes(_read(PLAIN, scheme="FP8", ignore=[DOWN0]))
    assert found["lm_head"].treatment == "fp8_tensor"
    assert found[DOWN0].treatment == "bf16"


def test_a_later_modifier_outdoes_an_earlier_one() -> None:
    recipe = {
        "first_stage": {"quant_modifiers": {"QuantizationModifier": {"scheme": "FP8"}}},
        "next_stage": {
            "quant_modifiers": {"GPTQModifier": {"scheme": "FP8_DYNAMIC", "targets": [DOWN0]}}
        },
    }
    reading = llm_compressor.read(Config("llm-compressor", recipe, "x"), PLAIN, "")
    found = _outcomes(reading)
    assert found[DOWN0].treatment == "fp8_token"
    assert found["lm_head"].treatment == "fp8_tensor"


def test_what_is_not_in_a_stage_is_not_looked_at() -> None:
    recipe = {"quant_modifiers": {"QuantizationModifier": {"scheme": "FP8"}}}
    reading = llm_compressor.read(Config("llm-compressor", recipe, "x"), PLAIN, "")
    assert {outcome.treatment for outcome in _outcomes(reading).values()} == {"bf16"}
    assert "no stage" in prove(reading).faults[0].sentence


def test_a_conv1d_is_never_quantized() -> None:
    found = _outcomes(_read(GPT2, scheme="FP8", targets=["transformer.h.0.mlp.c_fc"]))
    assert found["transformer.h.0.mlp.c_fc"].treatment == "bf16"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scheme": "FP9"}, "no preset scheme FP9"),
        ({"scheme": "FP8", "ignored": []}, "has no ignored"),
        ({}, "says nothing"),
        ({"scheme": "FP8", "config_groups": {}}, "both"),
        ({"scheme": "FP8", "ignore": ["re:*down_proj"]}, "no regular expression"),
        ({"scheme": "FP8", "ignore": "lm_head"}, "no list of names"),
        ({"config_groups": {"group_0": {"weights": None}}}, "has no targets"),
    ],
)
def test_what_it_refuses_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(CannotRead, match=words):
        _read(PLAIN, **arguments)


def test_what_it_has_no_words_for_is_refused() -> None:
    for model, words in (
        (planned(llama(), "other"), "another quantization"),
        (replace(LLAMA, kv_cache="mixed"), "one KV cache for all"),
        (planned(llama(), "bf16"), "no layer of llama is in FP8"),
        (_split(), "q_proj .*k_proj"),
    ):
        with pytest.raises(CannotExpress, match=words):
            llm_compressor.write(model)


def _split() -> Model:
    return llama().with_wanted(lambda m: "fp8_tensor" if "q_proj" in m.name else "bf16")
