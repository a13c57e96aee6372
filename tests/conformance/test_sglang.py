"""What SGLang 0.5.23 does with lists that people write, case by case."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fp8scope.checkpoint.schemes import SCHEMES
from fp8scope.core.modules import Model
from fp8scope.export.consumer import CannotRead
from fp8scope.export.consumers.sglang import CONSUMER
from fp8scope.export.proof import prove
from tests.export.engine_shapes import (
    deepseek,
    llama,
    mixtral,
    outcomes,
    phi3,
    read,
    treatments,
    wanting,
)

QKV = "model.layers.1.self_attn.qkv_proj"
O_PROJ = "model.layers.1.self_attn.o_proj"
DOWN = "model.layers.1.mlp.down_proj"
TENTH = "model.layers.10.mlp.down_proj"
GATE_UP = "model.layers.1.mlp.gate_up_proj"
SHARDS = [f"model.layers.1.self_attn.{n}_proj" for n in "qkv"]
GLOBS = ["*.q_proj", "*.k_proj", "*.v_proj"]
RAISES = "raises"

# exclude → layer: what SGLang's modelopt makes of it, and its fp8
ROWS: list[tuple[list[str], str, bool | str, bool | str]] = [
    (SHARDS, QKV, True, True),
    (SHARDS[:1], QKV, RAISES, RAISES),
    (GLOBS, QKV, False, False),
    (["model.layers.1.self_attn*"], O_PROJ, True, False),
    (["model.layers.1"], TENTH, False, False),
    (["model.layers.1*"], TENTH, True, False),
    (["re:.*down_proj$"], DOWN, False, False),
    (["down_proj"], DOWN, True, True),
    (["mlp.gate"], GATE_UP, False, False),
    ([DOWN], DOWN, True, True),
]


def nested(excluded: list[str], **more: Any) -> dict[str, Any]:
    return {"quantization": {"quant_algo": "FP8", "exclude_modules": excluded, **more}}


def fp8(ignored: list[str], **more: Any) -> dict[str, Any]:
    data = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ignored}
    return {**data, **more}


def compressed(ignore: list[str], targets: list[str], **more: Any) -> dict[str, Any]:
    group = {**SCHEMES["fp8_token"], "targets": targets}
    groups = {"group_0": group}
    return {"format": "float-quantized", "config_groups": groups, "ignore": ignore, **more}


def kept(form: str, data: dict[str, Any], layer: str, model: Model) -> bool | str:
    outcome = outcomes(read(CONSUMER, form, data, model))[layer]
    return RAISES if outcome.treatment is None else outcome.treatment == "bf16"


@pytest.mark.parametrize(("excluded", "layer", "modelopt", "_fp8"), ROWS)
def test_modelopt(excluded: list[str], layer: str, modelopt: bool | str, _fp8: bool | str) -> None:
    assert kept("hf-quant-config", nested(excluded), layer, llama()) == modelopt


@pytest.mark.parametrize(("excluded", "layer", "modelopt", "fp8_"), ROWS)
def test_fp8(excluded: list[str], layer: str, modelopt: bool | str, fp8_: bool | str) -> None:
    assert kept("fp8", fp8(excluded), layer, llama()) == fp8_
    online = {"quantization": "fp8", "ignored_layers": excluded}
    assert kept("sglang", online, layer, llama()) == fp8_


def test_the_flat_form_has_only_ignore() -> None:
    flat = {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": [DOWN]}
    assert kept("hf-quant-config", flat, DOWN, llama()) is False
    assert kept("hf-quant-config", {**flat, "ignore": [DOWN]}, DOWN, llama()) is True


def test_a_split_group_is_one_sentence() -> None:
    outcome = outcomes(read(CONSUMER, "hf-quant-config", nested(SHARDS[:1]), llama()))[QKV]
    assert outcome.error == (
        f"{QKV} is one layer of q_proj, k_proj, v_proj, and the list names only some of them"
    )


def test_fp8_reads_names_with_and_without_model() -> None:
    bare = DOWN.removeprefix("model.")
    assert kept("fp8", fp8([bare]), DOWN, llama()) is True
    assert kept("fp8", fp8([f"model.{DOWN}"]), DOWN, llama()) is True
    only = {"quant_method": "fp8", "activation_scheme": "dynamic", "modules_to_not_convert": [DOWN]}
    assert kept("fp8", only, DOWN, llama()) is True
    # a list of the first name hides one of the second, even where it is empty
    assert kept("fp8", {**only, "ignored_layers": []}, DOWN, llama()) is False


@pytest.mark.parametrize(
    ("more", "treatment"),
    [
        ({}, "fp8_tensor"),
        ({"activation_scheme": "dynamic"}, "fp8_tensor_dynamic"),
        ({"activation_scheme": "dynamic", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"activation_scheme": "dynamic", "weight_block_size": [32, 32]}, "other"),
    ],
)
def test_what_fp8_checkpoints_run_in(more: dict[str, Any], treatment: str) -> None:
    found = Counter(treatments(read(CONSUMER, "fp8", fp8([DOWN], **more), llama())).values())
    assert found == {treatment: 47, "bf16": 2}  # the head is never quantized


def test_modelopt_quantizes_the_head_unless_it_is_listed() -> None:
    found = treatments(read(CONSUMER, "hf-quant-config", nested([]), llama()))
    assert Counter(found.values()) == {"fp8_tensor": 49}
    assert kept("hf-quant-config", nested(["lm_head"]), "lm_head", llama()) is True
    # Mixtral's class builds its head without the quantization config
    assert kept("hf-quant-config", nested([]), "lm_head", mixtral()) is True


@pytest.mark.parametrize(
    ("section", "treatment", "says"),
    [
        ({"quant_algo": "MIXED_PRECISION", "quantized_layers": {}}, None, "for W4AFP8"),
        (
            {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "NVFP4"}}},
            "other",
            "",
        ),
        ({"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, "bf16", "as unquantized"),
        ({"quant_algo": "NVFP4"}, "other", ""),
    ],
)
def test_other_algorithms(section: dict[str, Any], treatment: str | None, says: str) -> None:
    found = outcomes(read(CONSUMER, "hf-quant-config", {"quantization": section}, llama()))
    assert {outcome.treatment for outcome in found.values()} == {treatment}
    assert all(says in outcome.error + outcome.note for outcome in found.values())


def test_flat_with_another_algorithm_raises() -> None:
    flat = {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO", "ignore": []}
    found = outcomes(read(CONSUMER, "hf-quant-config", flat, llama()))
    assert {outcome.treatment for outcome in found.values()} == {None}
    assert "only FP8, not FP8_PB_WO" in found[DOWN].error


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("hf-quant-config", {}),
        ("hf-quant-config", {"quantization": {"exclude_modules": []}}),
        ("hf-quant-config", {"quantization": {"quant_algo": "FP8", "exclude_modules": "lm_head"}}),
        ("fp8", {"quant_method": "fp8"}),
        ("fp8", fp8([], weight_block_size=[128, 128])),
        ("sglang", {"quantization": "w8a8_fp8"}),
        ("compressed-tensors", {"config_groups": {"group_0": {"targets": ["Linear"]}}}),
    ],
)
def test_what_cannot_be_read(form: str, data: dict[str, Any]) -> None:
    with pytest.raises(CannotRead) as error:
        read(CONSUMER, form, data, llama())
    assert "config.json" in str(error.value)


def test_a_broken_expression_raises_in_the_engine_and_here_it_is_said() -> None:
    found = outcomes(read(CONSUMER, "hf-quant-config", nested(["model.layers[0"]), llama()))
    assert found[DOWN].treatment is None
    assert "no regular expression" in found[DOWN].error


def test_experts_are_listed_by_their_own_name_in_modelopt() -> None:
    experts = "model.layers.1.block_sparse_moe.experts"
    one_each = [f"{experts}.{n}.{w}" for n in range(3) for w in ("w1", "w2", "w3")]
    assert kept("hf-quant-config", nested(one_each), experts, mixtral()) is False
    planned = wanting(mixtral(), "fp8_tensor", one_each)
    reading = read(CONSUMER, "hf-quant-config", nested(one_each), planned)
    assert [fault.sentence for fault in prove(reading).faults] == [
        f"exclude_modules “{experts}.0.w1”, “{experts}.0.w2”, “{experts}.0.w3” and 6 more match "
        f"nothing, so {experts} is not in BF16 (SGLang asks only for {experts})",
    ]
    assert kept("hf-quant-config", nested([experts]), experts, mixtral()) is True
    assert kept("hf-quant-config", nested([f"{experts}*"]), experts, mixtral()) is True
    assert kept("hf-quant-config", nested(["model.layers.1"]), experts, mixtral()) is False


def test_one_expert_keeps_them_all_in_fp8() -> None:
    experts = "model.layers.1.block_sparse_moe.experts"
    reading = read(CONSUMER, "fp8", fp8([f"{experts}.2.w1"]), mixtral())
    assert [n for n, t in treatments(reading).items() if t == "bf16"] == [
        "model.layers.0.block_sparse_moe.gate",
        "model.layers.1.block_sparse_moe.gate",
        experts,
        "lm_head",
    ]


def test_phi3_lies_fused_and_is_asked_for_by_shards() -> None:
    whole = "model.layers.0.self_attn.qkv_proj"
    shards = [f"model.layers.0.self_attn.{n}_proj" for n in "qkv"]
    assert kept("fp8", fp8([whole]), whole, phi3()) is False
    assert kept("fp8", fp8(shards), whole, phi3()) is True
    # modelopt's second matcher asks for the whole
    assert kept("hf-quant-config", nested([whole]), whole, phi3()) is True


def test_compressed_queries_are_one_layer() -> None:
    at = "model.layers.0.self_attn"
    fused, shards = f"{at}.fused_qkv_a_proj_with_mqa", ["q_a_proj", "kv_a_proj_with_mqa"]
    names = [f"{at}.{shard}" for shard in shards]
    for form, data in (("fp8", fp8), ("hf-quant-config", nested)):
        assert kept(form, data(names), fused, deepseek()) is True
        assert kept(form, data(names[:1]), fused, deepseek()) is RAISES
    # modelopt's second matcher looks for these inside the layer's name, in any block
    both = [f"model.layers.1.self_attn.{shard}" for shard in shards]
    assert kept("hf-quant-config", nested(both), fused, deepseek()) is True
    assert kept("fp8", fp8(both), fused, deepseek()) is False


def test_vision_language_prefixes() -> None:
    prefix = "model.language_model."
    qwen = llama(2, prefix, "Qwen2_5_VLForConditionalGeneration")
    down = "model.layers.0.mlp.down_proj"
    # the class renames lists to language_model.model.…, and builds its layers as model.…
    assert kept("fp8", fp8([f"{prefix}layers.0.mlp.down_proj"]), down, qwen) is False
    assert kept("fp8", fp8(["layers.0.mlp.down_proj"]), down, qwen) is True
    assert kept("hf-quant-config", nested([f"{prefix}layers.0.mlp.down_proj"]), down, qwen) is True
    llava = llama(2, prefix, "LlavaForConditionalGeneration")
    down = "language_model.model.layers.0.mlp.down_proj"
    assert kept("fp8", fp8([f"{prefix}layers.0.mlp.down_proj"]), down, llava) is False
    assert kept("fp8", fp8([down]), down, llava) is True


def test_compressed_tensors_knows_shards_only_where_the_class_says_so() -> None:
    data = compressed([*SHARDS, "lm_head"], ["Linear"])
    assert kept("compressed-tensors", data, QKV, llama()) is False  # declares no fused map
    note = outcomes(read(CONSUMER, "compressed-tensors", data, llama()))[QKV].note
    assert note == "SGLang's LlamaForCausalLM declares no shards of it: list it by its own name"
    qwen = llama(12, architecture="Qwen3MoeForCausalLM")
    assert kept("compressed-tensors", data, QKV, qwen) is True
    split = compressed(SHARDS[:1], ["Linear"])
    assert kept("compressed-tensors", split, QKV, qwen) is RAISES
    assert kept("compressed-tensors", compressed([QKV], ["Linear"]), QKV, llama()) is True


def test_compressed_tensors_targets() -> None:
    exact = compressed(["lm_head"], SHARDS)
    found = outcomes(read(CONSUMER, "compressed-tensors", exact, llama()))
    assert found[QKV].error == (
        f"no target matches {QKV}, and it is not ignored; "
        "SGLang's LlamaForCausalLM declares no shards of it: list it by its own name"
    )
    qwen = llama(12, architecture="Qwen3MoeForCausalLM")
    assert treatments(read(CONSUMER, "compressed-tensors", exact, qwen))[QKV] == "fp8_token"
    # entries of `ignore` are dotted ends, targets are not
    ends = compressed(["down_proj"], ["Linear"])
    assert kept("compressed-tensors", ends, DOWN, llama()) is True
    assert kept("compressed-tensors", compressed([], ["down_proj"]), DOWN, llama()) is RAISES
    # a head is quantized only where it is named
    assert kept("compressed-tensors", ends, "lm_head", llama()) is True
    named = compressed([], ["Linear", "lm_head"])
    assert (
        treatments(read(CONSUMER, "compressed-tensors", named, llama()))["lm_head"] == "fp8_token"
    )


@pytest.mark.parametrize("treatment", sorted(SCHEMES))
def test_compressed_tensors_schemes(treatment: str) -> None:
    scheme = {name: value for name, value in SCHEMES.items() if name == treatment}
    groups = {"g": {**next(iter(scheme.values())), "targets": ["Linear"]}}
    data = {"format": "float-quantized", "config_groups": groups, "ignore": []}
    found = treatments(read(CONSUMER, "compressed-tensors", data, mixtral()))
    assert found["model.layers.0.self_attn.o_proj"] == treatment
    experts = found["model.layers.0.block_sparse_moe.experts"]
    # experts have no dynamic inputs beside a scale per weight tensor
    assert experts == (None if treatment == "fp8_tensor_dynamic" else treatment)


def test_compressed_tensors_without_a_format_raises() -> None:
    data = compressed([], ["Linear"])
    del data["format"]
    found = outcomes(read(CONSUMER, "compressed-tensors", data, llama()))
    assert found[DOWN].error == "SGLang has no scheme for format None"


def test_compressed_tensors_asks_for_the_first_expert_by_llama_names() -> None:
    experts = "model.layers.1.block_sparse_moe.experts"
    named = [f"{experts}.{n}.{w}" for n in range(3) for w in ("w1", "w2", "w3")]
    assert kept("compressed-tensors", compressed(named, ["Linear"]), experts, mixtral()) is False
    asked = [f"{experts}.0.{w}" for w in ("gate_proj", "up_proj", "down_proj")]
    assert kept("compressed-tensors", compressed(asked, ["Linear"]), experts, mixtral()) is True
    some = compressed(asked[:2], ["Linear"])
    outcome = outcomes(read(CONSUMER, "compressed-tensors", some, mixtral()))[experts]
    assert outcome.error == f"the projections of {experts} are in different groups"


def test_what_one_entry_hits() -> None:
    reading = read(CONSUMER, "hf-quant-config", nested(["model.layers.1*", *SHARDS[:1]]), llama())
    wide, shard = reading.patterns
    layers = {layer.name: layer for layer in reading.layers}
    assert layers[QKV].shards == tuple(SHARDS)
    assert [n for n in layers if reading.hits(wide, n)] == [
        n for n in layers if n.startswith(("model.layers.1.", "model.layers.10", "model.layers.11"))
    ]
    assert not reading.hits(shard, QKV)
    assert [n for n in layers[QKV].shards if reading.hits(shard, n)] == SHARDS[:1]
