"""What is written for compressed-tensors, and what the library makes of what people write."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fp8scope.checkpoint.schemes import SCHEMES
from fp8scope.core.modules import Model
from fp8scope.export.consumer import CannotExpress, CannotRead, Config, Outcome, Reading
from fp8scope.export.consumers import compressed_tensors
from fp8scope.export.intent import intended
from fp8scope.export.proof import prove
from tests.export.mixes import GPT2, LLAMA, MIXTRAL, MODELS, PLAIN
from tests.export.shapes import DOWN0, check_golden, config, llama, mixtral, planned

EXPERTS = [f"model.layers.{block}.mlp.experts" for block in range(2)]
DOWN10 = "model.layers.10.mlp.down_proj"


def _read(model: Model, groups: dict[str, Any], ignore: list[str] | None = None) -> Reading:
    data = {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ignore}
    return compressed_tensors.read(Config("compressed-tensors", data, "config.json"), model, "")


def _outcomes(reading: Reading) -> dict[str, Outcome]:
    return {layer.name: reading.outcome(layer) for layer in reading.layers}


@pytest.mark.parametrize("name", MODELS)
def test_written_files(name: str) -> None:
    model = MODELS[name]
    document = compressed_tensors.write(model)
    assert document.kind == "metadata"
    assert json.loads(document.forms["json"].text) == document.config
    assert ("smoothing is folded" in document.config["fp8scope"]) == model.folded
    check_golden(f"compressed-tensors-{name}", document.forms["json"])


@pytest.mark.parametrize(
    "model",
    [LLAMA, MIXTRAL, planned(mixtral(), "fp8_token", EXPERTS)],
    ids=["llama", "mixtral", "bf16-experts"],
)
def test_written_files_do_just_what_is_wanted(model: Model) -> None:
    document = compressed_tensors.write(model)
    proof = prove(compressed_tensors.read(config("compressed-tensors", document), model, "0.20.0"))
    assert proof.holds, proof.faults


def test_every_linear_is_named_once_and_fused_groups_are_whole() -> None:
    for model in (LLAMA, MIXTRAL):
        data = compressed_tensors.write(model).config
        group_of = {module.name: module.group for module in model.modules}
        lists = [*(group["targets"] for group in data["config_groups"].values()), data["ignore"]]
        named = [name for names in lists for name in names]
        assert len(named) == len(set(named))
        assert set(group_of) <= set(named)
        found = [{group_of[name] for name in names if name in group_of} for names in lists]
        groups = [group for each in found for group in each]
        assert len(groups) == len(set(groups))


def test_names_that_sglang_alone_compares_with_come_last() -> None:
    """Its classes hand on no names of shards, and experts are `gate_proj` and so on to it."""
    groups = compressed_tensors.write(MIXTRAL).config["config_groups"]
    at, experts = "model.layers.0.self_attn", "model.layers.0.block_sparse_moe.experts"
    assert groups["group_0"]["targets"][-3:] == [
        f"{experts}.0.gate_proj",
        f"{experts}.0.up_proj",
        f"{experts}.0.down_proj",
    ]
    assert groups["group_1"]["targets"][-2:] == [
        f"{at}.qkv_proj",
        "model.layers.1.self_attn.qkv_proj",
    ]


def test_stacked_experts_are_loaded_by_their_scales() -> None:
    document = compressed_tensors.write(MIXTRAL)
    reading = compressed_tensors.read(config("compressed-tensors", document), MIXTRAL, "")
    assert prove(reading).holds
    assert _outcomes(reading)[f"{EXPERTS[0]}.down_proj"].treatment == "fp8_tensor"
    unknown = MIXTRAL.with_wanted(lambda _: None)
    reading = compressed_tensors.read(config("compressed-tensors", document), unknown, "")
    meant = intended(unknown, reading, reading)
    assert [m.wanted for m in meant.modules] == [m.wanted for m in MIXTRAL.modules]


def test_stacked_experts_in_blocks_cannot_be_loaded() -> None:
    model = planned(mixtral(), "fp8_block")
    document = compressed_tensors.write(model)
    proof = prove(compressed_tensors.read(config("compressed-tensors", document), model, ""))
    assert {row.layer.name for row in proof.differences} == {
        f"{experts}.{stack}" for experts in EXPERTS for stack in ("gate_up_proj", "down_proj")
    }
    assert "cannot load stacked experts with block scales" in proof.faults[0].sentence


def test_a_class_does_not_mean_what_is_none_of_it() -> None:
    """Nobody who says Linear means routers, which are no linears in transformers 5."""
    model = mixtral().with_wanted(lambda _: None)
    reading = _read(model, {"FP8": ["Linear"]}, ["lm_head"])
    meant = intended(model, reading, reading)
    assert {m.wanted for m in meant.modules if m.kind == "router"} == {"bf16"}
    assert {m.wanted for m in meant.modules if m.kind == "linear"} == {"fp8_tensor"}
    assert prove(_read(meant, {"FP8": ["Linear"]}, ["lm_head"])).holds


def test_classes_exact_names_and_expressions() -> None:
    ignore = ["lm_head", DOWN0]
    assert prove(_read(PLAIN, {"FP8": ["Linear"]}, ignore)).holds
    named = {"FP8_DYNAMIC": ["Linear"], "FP8_BLOCK": ["re:.*down_proj$"], "FP8": [DOWN10]}
    found = _outcomes(_read(PLAIN, named, ["lm_head"]))
    assert found[DOWN10].treatment == "fp8_tensor"  # an exact name before expressions and classes
    assert found[DOWN0].treatment == "fp8_block"
    assert found["model.layers.0.self_attn.q_proj"].treatment == "fp8_token"
    assert found["lm_head"].treatment == "bf16"


def test_an_expression_is_matched_from_the_start_and_need_not_end() -> None:
    first = r"re:model\.layers\.1"
    found = _outcomes(_read(PLAIN, {"FP8": ["Linear"]}, ["lm_head", first]))
    assert found[DOWN10].treatment == "bf16"
    found = _outcomes(_read(PLAIN, {"FP8": ["Linear"]}, ["lm_head", "re:layers"]))
    assert found[DOWN10].treatment == "fp8_tensor"


@pytest.mark.parametrize(
    "entry", ["*.down_proj", "down_proj", "model.layers.1*", f"{DOWN0}.weight"]
)
def test_a_glob_or_a_part_matches_nothing(entry: str) -> None:
    reading = _read(PLAIN, {"FP8": ["Linear"]}, ["lm_head", DOWN0, entry])
    (fault,) = prove(reading).faults
    assert fault.sentence.startswith(f"ignore “{entry}” matches nothing")


def test_a_conv1d_is_no_linear() -> None:
    found = _outcomes(_read(GPT2, {"FP8": ["Linear"]}))
    assert {name: outcome.treatment for name, outcome in found.items()} == {
        "transformer.h.0.mlp.c_fc": "bf16",
        "lm_head": "fp8_tensor",
    }


def test_the_last_of_the_same_target_decides_and_both_are_shown() -> None:
    reading = _read(PLAIN, {"FP8": [DOWN0], "FP8_DYNAMIC": [DOWN0]})
    assert _outcomes(reading)[DOWN0].treatment == "fp8_token"
    assert [pattern.says for pattern in reading.patterns] == ["fp8_tensor", "fp8_token"]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (None, "no `config_groups`"),
        ({"group_0": {}}, "has no targets"),
        ({"group_0": ["Linear"]}, "no preset scheme group_0"),
        ({"group_0": {"targets": "Linear"}}, "no list of names"),
        ({"group_0": {"targets": [], "weights": "fp8"}}, "no mapping"),
        ({"FP8": ["re:*down_proj"]}, "no regular expression"),
        (
            {"group_0": {"targets": [], "input_activations": {"strategy": "token"}}},
            "scales per token",
        ),
    ],
)
def test_what_the_library_refuses_is_refused(groups: Any, words: str) -> None:
    with pytest.raises(CannotRead, match=words):
        _read(llama(), groups)


def test_what_it_has_no_words_for_is_refused() -> None:
    with pytest.raises(CannotExpress, match="another quantization"):
        compressed_tensors.write(planned(llama(), "other"))
    with pytest.raises(CannotExpress, match="one KV cache for all layers"):
        compressed_tensors.write(replace(LLAMA, kv_cache="mixed"))


@pytest.mark.parametrize("treatment", sorted(SCHEMES))
def test_each_treatment_alone(treatment: Any) -> None:
    model = planned(llama(), treatment, [DOWN0])
    document = compressed_tensors.write(model)
    assert list(document.config["config_groups"]) == ["group_0"]
    assert prove(compressed_tensors.read(config("compressed-tensors", document), model, "")).holds
