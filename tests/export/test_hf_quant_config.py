"""ModelOpt's metadata: nested and flat say the same, exactly, of every linear of the files."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fp8scope.checkpoint.schemes import algorithm
from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import CannotExpress
from fp8scope.export.consumers import hf_quant_config
from tests.export.mixes import LLAMA, MIXTRAL, MODELS
from tests.export.shapes import DOWN0, check_golden, llama, mixtral, planned

STACK1 = "model.layers.1.block_sparse_moe.experts"
TOKEN = planned(llama(), "fp8_token", [DOWN0])
ALONE = {
    "tensor": planned(llama(), "fp8_tensor", [DOWN0]),
    "token": TOKEN,
    "block": planned(llama(), "fp8_block", [DOWN0]),
    "experts": planned(mixtral(), "fp8_tensor", ["model.layers.1.mlp.experts"]),
}


def _both(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    forms = hf_quant_config.write(model).forms
    return json.loads(forms["nested"].text)["quantization"], json.loads(forms["flat"].text)


@pytest.mark.parametrize("name", [*MODELS, "tensor", "experts"])
def test_golden(name: str) -> None:
    document = hf_quant_config.write((MODELS | ALONE)[name])
    assert document.kind == "metadata"
    for form, found in document.forms.items():
        check_golden(f"hf-quant-config-{name}-{form}", found)


@pytest.mark.parametrize("name", [*MODELS, *ALONE])
def test_nested_and_flat_say_the_same(name: str) -> None:
    nested, flat = _both((MODELS | ALONE)[name])
    assert nested["quant_algo"] == flat["quant_algo"]
    assert nested["exclude_modules"] == flat["ignore"]
    assert nested.get("quantized_layers") == flat.get("quantized_layers")
    cached = {"dynamic": False, "num_bits": 8, "type": "float"}
    assert flat.get("kv_cache_scheme") == (cached if nested["kv_cache_quant_algo"] else None)
    assert flat["quant_method"] == "modelopt"


@pytest.mark.parametrize(
    ("name", "quant_algo"),
    [
        ("tensor", "FP8"),
        ("token", "FP8_PER_CHANNEL_PER_TOKEN"),
        ("block", "fp8_pb_wo"),
        ("experts", "FP8"),
        ("llama", "MIXED_PRECISION"),
        ("mixtral", "MIXED_PRECISION"),
    ],
)
def test_one_algorithm_alone_or_one_for_each_layer(name: str, quant_algo: str) -> None:
    nested, _ = _both((MODELS | ALONE)[name])
    assert nested["quant_algo"] == quant_algo
    assert ("quantized_layers" in nested) == (quant_algo == "MIXED_PRECISION")


def test_one_algorithm_excludes_just_what_is_in_bf16() -> None:
    for name, excluded in (("tensor", {DOWN0, "lm_head"}), ("block", {DOWN0, "lm_head"})):
        assert set(_both(ALONE[name])[0]["exclude_modules"]) == excluded


@pytest.mark.parametrize("model", [LLAMA, MIXTRAL], ids=["llama", "mixtral"])
def test_a_mix_names_every_linear_either_way(model: Model) -> None:
    nested, _ = _both(model)
    said: dict[str, Treatment] = {
        name: algorithm(each["quant_algo"]) for name, each in nested["quantized_layers"].items()
    }
    assert not said.keys() & set(nested["exclude_modules"])
    said |= dict.fromkeys(nested["exclude_modules"], "bf16")
    said.pop(STACK1, None)  # all of its experts, which are named too
    assert said == {module.name: module.wanted for module in model.modules}


def test_experts_in_bf16_are_named_one_by_one_and_together() -> None:
    excluded = _both(ALONE["experts"])[0]["exclude_modules"]
    named = [name for name in excluded if name.startswith(STACK1)]
    assert len(named) == len(set(named)) == 4 * 3 + 1
    assert STACK1 in named
    assert f"{STACK1}.3.w2" in named
    assert "model.layers.0.block_sparse_moe.experts" not in excluded


def test_it_says_what_it_is() -> None:
    nested = hf_quant_config.write(LLAMA).config
    assert nested["fp8scope"].startswith("metadata of a finished checkpoint")
    assert nested["fp8scope"].endswith("smoothing is folded into those weights")
    assert "folded" not in hf_quant_config.write(MIXTRAL).config["fp8scope"]
    assert nested["producer"] == {"name": "modelopt"}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (planned(llama(), "fp8_tensor_dynamic"), "dynamic input scales.*per token"),
        (planned(llama(), "other"), "another quantization"),
        (planned(llama(), "bf16"), "no layer of llama is in FP8"),
        (replace(TOKEN, kv_cache="mixed"), "one KV cache for all layers"),
        (
            TOKEN.with_wanted(lambda m: "bf16" if "up_proj" in m.name else "fp8_token"),
            "engines run as one: .*gate_proj .*up_proj",
        ),
    ],
)
def test_what_it_has_no_words_for_is_refused(model: Model, words: str) -> None:
    with pytest.raises(CannotExpress, match=words):
        hf_quant_config.write(model)
