"""What vLLM 0.33.0 does with lists that people write, case by case."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from fp8scope.checkpoint.schemes import SCHEMES
from fp8scope.core.modules import Model
from fp8scope.export.consumer import CannotRead
from fp8scope.export.consumers.vllm import CONSUMER
from fp8scope.export.proof import prove
from tests.export.engine_shapes import linear, llama, mixtral, outcomes, phi3, read, treatments

QKV = "model.layers.1.self_attn.qkv_proj"
O_PROJ = "model.layers.1.self_attn.o_proj"
DOWN = "model.layers.1.mlp.down_proj"
TENTH = "model.layers.10.mlp.down_proj"
GATE_UP = "model.layers.1.mlp.gate_up_proj"
SHARDS = [f"model.layers.1.self_attn.{n}_proj" for n in "qkv"]
GLOBS = ["*.q_proj", "*.k_proj", "*.v_proj"]
RAISES = "raises"
EXPERTS = "model.layers.1.block_sparse_moe.experts"

# exclude → layer: what vLLM's modelopt, fp8 and compressed-tensors make of it
ROWS: list[tuple[list[str], str, bool | str, bool | str, bool | str]] = [
    (SHARDS, QKV, True, True, True),
    (SHARDS[:1], QKV, RAISES, RAISES, RAISES),
    (GLOBS, QKV, False, False, False),
    (["model.layers.1.self_attn*"], O_PROJ, True, False, False),
    (["model.layers.1"], TENTH, True, False, False),
    (["model.layers.1*"], TENTH, True, False, False),
    (["re:.*down_proj$"], DOWN, False, False, True),
    (["down_proj"], DOWN, True, False, False),
    (["mlp.gate"], GATE_UP, True, False, False),
    ([DOWN], DOWN, True, True, True),
]


def nested(excluded: list[str], algorithm: str = "FP8", **more: Any) -> dict[str, Any]:
    section = {"quant_algo": algorithm, "exclude_modules": excluded, **more}
    return {"producer": {"name": "modelopt"}, "quantization": section}


def mixed(layers: dict[str, str], excluded: list[str] | None = None) -> dict[str, Any]:
    quantized = {name: {"quant_algo": algorithm} for name, algorithm in layers.items()}
    return nested(excluded or [], "MIXED_PRECISION", quantized_layers=quantized)


def fp8(ignored: list[str], **more: Any) -> dict[str, Any]:
    data = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ignored}
    return {**data, **more}


def compressed(ignore: list[str], targets: list[str], scheme: str = "fp8_token") -> dict[str, Any]:
    arguments = next(each for name, each in SCHEMES.items() if name == scheme)
    group = {**arguments, "targets": targets}
    groups = {"group_0": group}
    return {"format": "float-quantized", "config_groups": groups, "ignore": ignore}


def kept(form: str, data: dict[str, Any], layer: str, model: Model) -> bool | str:
    outcome = outcomes(read(CONSUMER, form, data, model))[layer]
    return RAISES if outcome.treatment is None else outcome.treatment == "bf16"


def qwen_moe() -> Model:
    at = "model.layers.0"
    modules = [linear(f"{at}.self_attn.{n}_proj") for n in "qkvo"]
    modules.append(linear(f"{at}.mlp.gate", "router"))
    for expert in range(2):
        of = f"{at}.mlp.experts.{expert}"
        modules += [linear(f"{of}.{n}_proj", "expert") for n in ("gate", "up", "down")]
    return Model("qwen3", "Qwen3MoeForCausalLM", "qwen3_moe", (*modules,))


@pytest.mark.parametrize(("excluded", "layer", "modelopt", "_f", "_c"), ROWS)
def test_modelopt(
    excluded: list[str], layer: str, modelopt: bool | str, _f: bool | str, _c: bool | str
) -> None:
    assert kept("hf-quant-config", nested(excluded), layer, llama()) == modelopt
    flat = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": excluded}
    assert kept("hf-quant-config", flat, layer, llama()) == modelopt


@pytest.mark.parametrize(("excluded", "layer", "_m", "fp8_", "_c"), ROWS)
def test_fp8(
    excluded: list[str], layer: str, _m: bool | str, fp8_: bool | str, _c: bool | str
) -> None:
    assert kept("fp8", fp8(excluded), layer, llama()) == fp8_


@pytest.mark.parametrize(("excluded", "layer", "_m", "_f", "compressed_"), ROWS)
def test_compressed_tensors(
    excluded: list[str], layer: str, _m: bool | str, _f: bool | str, compressed_: bool | str
) -> None:
    data = compressed(excluded, ["Linear"])
    assert kept("compressed-tensors", data, layer, llama()) == compressed_


def test_a_split_group_is_one_sentence() -> None:
    said = "it is one layer of q_proj, k_proj, v_proj, and the list names only some of its shards"
    for form, data in (
        ("hf-quant-config", nested(SHARDS[:1])),
        ("fp8", fp8(SHARDS[:1])),
        ("compressed-tensors", compressed(SHARDS[:1], ["Linear"])),
    ):
        assert outcomes(read(CONSUMER, form, data, llama()))[QKV].error == said


def test_the_flat_form_reads_either_list_and_ignore_first() -> None:
    flat = {"quant_method": "modelopt", "quant_algo": "fp8", "exclude_modules": [DOWN]}
    assert kept("hf-quant-config", flat, DOWN, llama()) is True
    assert kept("hf-quant-config", {**flat, "ignore": []}, DOWN, llama()) is False


def test_one_star_at_the_end_is_two_entries_where_the_class_renames_lists() -> None:
    starred = nested(["self_attn*"])
    assert kept("hf-quant-config", starred, O_PROJ, llama()) is True
    deepseek = llama(12, architecture="DeepseekV3ForCausalLM")  # its class has no mapper
    assert kept("hf-quant-config", starred, O_PROJ, deepseek) is False


@pytest.mark.parametrize(
    ("algorithm", "linears", "experts"),
    [
        ("FP8", "fp8_tensor", "fp8_tensor"),
        ("FP8_PER_CHANNEL_PER_TOKEN", "fp8_token", "fp8_tensor"),
        ("FP8_PB_WO", "fp8_block", "fp8_tensor"),
        ("NVFP4", "other", "other"),
    ],
)
def test_modelopt_reads_experts_as_static_whatever_the_algorithm(
    algorithm: str, linears: str, experts: str
) -> None:
    found = outcomes(read(CONSUMER, "hf-quant-config", nested([], algorithm), mixtral()))
    assert found["model.layers.1.self_attn.qkv_proj"].treatment == linears
    assert found[EXPERTS].treatment == experts
    assert bool(found[EXPERTS].note) is (algorithm in {"FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO"})
    assert found["model.layers.1.block_sparse_moe.gate"].treatment == "bf16"


def test_modelopt_quantizes_the_head_and_fp8_does_not() -> None:
    found = treatments(read(CONSUMER, "hf-quant-config", nested([]), llama()))
    assert Counter(found.values()) == {"fp8_tensor": 49}
    assert kept("hf-quant-config", nested(["lm_head"]), "lm_head", llama()) is True
    found = treatments(read(CONSUMER, "fp8", fp8([]), llama()))
    assert Counter(found.values()) == {"fp8_tensor": 48, "bf16": 1}


def test_some_classes_pass_the_config_to_their_routers() -> None:
    gate = "model.layers.0.mlp.gate"
    assert kept("hf-quant-config", nested([]), gate, qwen_moe()) is False
    assert kept("hf-quant-config", nested([gate]), gate, qwen_moe()) is True
    online = {"linear": "fp8_per_channel", "ignore": []}
    assert kept("vllm", online, gate, qwen_moe()) is False
    mixtrals = "model.layers.0.block_sparse_moe.gate"
    assert kept("vllm", online, mixtrals, mixtral()) is True


def test_a_vision_tower_stays_in_modelopt() -> None:
    tower = llama(2, "model.vision_tower.", "LlavaForConditionalGeneration")
    found = outcomes(read(CONSUMER, "hf-quant-config", nested([]), tower))
    kept_ = [name for name, outcome in found.items() if outcome.treatment == "bf16"]
    assert len(kept_) == 8
    assert all("vision tower" in found[name].note for name in kept_)


def test_experts_are_kept_whole_by_any_entry_inside() -> None:
    for form, one in (
        ("hf-quant-config", nested([f"{EXPERTS}.2.w1"])),
        ("fp8", fp8([f"{EXPERTS}.2.w1"])),
    ):
        outcome = outcomes(read(CONSUMER, form, one, mixtral()))[EXPERTS]
        assert outcome.treatment == "bf16"
        assert outcome.note == f"vLLM keeps all experts for {EXPERTS}.2.w1"
    every = [f"{EXPERTS}.{n}.{w}" for n in range(3) for w in ("w1", "w2", "w3")]
    assert not outcomes(read(CONSUMER, "fp8", fp8(every), mixtral()))[EXPERTS].note
    assert kept("fp8", fp8([EXPERTS]), EXPERTS, mixtral()) is True
    assert kept("fp8", fp8(["model.layers.1"]), EXPERTS, mixtral()) is False


def test_mixed_precision_takes_exact_names() -> None:
    data = mixed({**dict.fromkeys(SHARDS, "FP8"), DOWN: "fp8_per_channel_per_token"})
    found = treatments(read(CONSUMER, "hf-quant-config", data, llama()))
    assert {name: t for name, t in found.items() if t != "bf16"} == {
        QKV: "fp8_tensor",
        DOWN: "fp8_token",
    }
    assert len(found) == 49


def test_mixed_precision_takes_one_shard_for_all() -> None:
    one = outcomes(read(CONSUMER, "hf-quant-config", mixed({SHARDS[0]: "FP8"}), llama()))[QKV]
    assert one.treatment == "fp8_tensor"
    assert one.note == "vLLM takes the algorithm of q_proj for the whole layer"
    others = mixed({SHARDS[0]: "FP8"}, SHARDS[1:])
    refused = outcomes(read(CONSUMER, "hf-quant-config", others, llama()))[QKV]
    assert refused.treatment is None  # BF16 shards in the list make it raise
    differ = mixed({SHARDS[0]: "FP8", SHARDS[1]: "FP8_PB_WO"})
    refused = outcomes(read(CONSUMER, "hf-quant-config", differ, llama()))[QKV]
    assert refused.error.endswith("its shards are listed with FP8 and FP8_PB_WO")


@pytest.mark.parametrize(
    ("entry", "algorithm", "treatment", "says"),
    [
        (f"{EXPERTS}.0.w1", "FP8", "fp8_tensor", ""),
        (EXPERTS, "FP8_PB_WO", "fp8_block", ""),
        (EXPERTS, "FP8_BLOCK_SCALES", "fp8_block", ""),
        (EXPERTS, "FP8_PER_CHANNEL_PER_TOKEN", "bf16", "loads them as BF16"),
        (EXPERTS, "NVFP4", "other", ""),
        ("model.layers.1.block_sparse_moe.shared.up_proj", "FP8", "fp8_tensor", "beside"),
    ],
)
def test_mixed_precision_of_experts(entry: str, algorithm: str, treatment: str, says: str) -> None:
    data = mixed({entry: algorithm})
    found = outcomes(read(CONSUMER, "hf-quant-config", data, mixtral()))[EXPERTS]
    assert found.treatment == treatment
    assert says in found.note
    assert bool(found.note) is bool(says)


def test_mixed_precision_of_experts_that_differ_takes_the_first() -> None:
    data = mixed({f"{EXPERTS}.0.w1": "FP8", f"{EXPERTS}.1.w1": "FP8_PB_WO"})
    found = outcomes(read(CONSUMER, "hf-quant-config", data, mixtral()))[EXPERTS]
    assert found.treatment == "fp8_tensor"
    assert found.note == f"vLLM takes the algorithm of {EXPERTS}.0.w1 for all experts"


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
    assert found == {treatment: 47, "bf16": 2}


def test_one_family_takes_dotted_ends_where_blocks_are_fp8() -> None:
    family = llama(12, architecture="BailingMoeV3ForCausalLM")
    block = fp8(["down_proj"], activation_scheme="dynamic", weight_block_size=[128, 128])
    assert kept("fp8", block, DOWN, family) is True
    assert kept("fp8", block, DOWN, llama()) is False
    assert kept("fp8", fp8(["down_proj"]), DOWN, family) is False


def test_an_empty_list_of_the_first_name_hides_none_of_the_second() -> None:
    data = fp8([], modules_to_not_convert=[DOWN])
    assert kept("fp8", data, DOWN, llama()) is True
    assert kept("fp8", {**data, "ignored_layers": [O_PROJ]}, DOWN, llama()) is False


@pytest.mark.parametrize("treatment", sorted(SCHEMES))
def test_compressed_tensors_schemes(treatment: str) -> None:
    data = compressed([], ["Linear"], treatment)
    found = treatments(read(CONSUMER, "compressed-tensors", data, mixtral()))
    assert found["model.layers.0.self_attn.o_proj"] == treatment
    # experts have no dynamic inputs beside a scale per weight tensor
    assert found[EXPERTS] == (None if treatment == "fp8_tensor_dynamic" else treatment)
    assert found["lm_head"] == "bf16"


def test_compressed_tensors_targets() -> None:
    found = treatments(read(CONSUMER, "compressed-tensors", compressed([], SHARDS), llama()))
    assert {name for name, t in found.items() if t != "bf16"} == {QKV}  # the rest, silently
    head = compressed([], ["Linear", "lm_head"])
    found = treatments(read(CONSUMER, "compressed-tensors", head, llama()))
    assert Counter(found.values()) == {"fp8_token": 49}
    part = compressed([], ["RowParallel"])  # any part of a class's name, in any case
    found = treatments(read(CONSUMER, "compressed-tensors", part, llama()))
    assert Counter(found.values()) == {"fp8_token": 24, "bf16": 25}


def test_compressed_tensors_takes_the_first_shards_target_for_all() -> None:
    data = compressed([], SHARDS[:1])
    data["config_groups"]["group_1"] = {**SCHEMES["fp8_tensor"], "targets": SHARDS[1:]}
    found = outcomes(read(CONSUMER, "compressed-tensors", data, llama()))[QKV]
    assert found.treatment == "fp8_token"
    assert found.note == "vLLM takes the first shard's target for the whole layer"


def test_compressed_tensors_asks_for_the_first_expert_by_the_classs_names() -> None:
    named = [f"{EXPERTS}.0.{w}" for w in ("w1", "w2", "w3")]
    assert kept("compressed-tensors", compressed(named, ["Linear"]), EXPERTS, mixtral()) is True
    later = [name.replace(".0.", ".1.") for name in named]
    assert kept("compressed-tensors", compressed(later, ["Linear"]), EXPERTS, mixtral()) is False
    some = compressed(named[:2], ["Linear"])
    outcome = outcomes(read(CONSUMER, "compressed-tensors", some, mixtral()))[EXPERTS]
    assert outcome.error.endswith("are not all in one group, or not all ignored")
    assert not outcome.note
    deepseek = replace(mixtral(), architecture="DeepseekV3ForCausalLM")
    outcome = outcomes(read(CONSUMER, "compressed-tensors", some, deepseek))[EXPERTS]
    assert outcome.treatment == "fp8_token"
    assert outcome.note.endswith(f"{EXPERTS}.0.down_proj, which no file has")
    routed = compressed([], ["RoutedExperts"])
    found = treatments(read(CONSUMER, "compressed-tensors", routed, mixtral()))
    assert {name for name, t in found.items() if t == "fp8_token"} == {
        EXPERTS,
        EXPERTS.replace("layers.1", "layers.0"),
    }


def scheme(weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    floats = {"num_bits": 8, "type": "float", "symmetric": True}
    group: dict[str, Any] = {"weights": {**floats, **weights}, "targets": ["Linear"]}
    if inputs is not None:
        group["input_activations"] = {**floats, **inputs}
    return {"format": "float-quantized", "config_groups": {"g": group}, "ignore": []}


BLOCKS = {"strategy": "block", "block_structure": [128, 128]}
PER_GROUP = {"strategy": "group", "group_size": 128, "dynamic": True}


@pytest.mark.parametrize(
    ("architecture", "first"),
    [
        ("NemotronHForCausalLM", ("up_proj", "down_proj")),
        ("NemotronHPuzzleForCausalLM", ("up_proj", "down_proj")),
        ("DeepseekV41ForCausalLM", ("w1", "w2", "w3")),
        ("Qwen3MoeForCausalLM", ("gate_proj", "up_proj", "down_proj")),
    ],
)
def test_experts_are_asked_for_by_the_names_of_their_class(
    architecture: str, first: tuple[str, ...]
) -> None:
    at = "model.layers.0.mlp.experts"
    experts = [linear(f"{at}.{e}.{name}", "expert") for e in range(2) for name in first]
    model = Model("m", architecture, "m", tuple(experts))
    ignored = compressed([f"{at}.0.{name}" for name in first], ["re:.*experts"])
    asks_more = architecture.startswith("NemotronH")  # for a projection that is not there
    assert treatments(read(CONSUMER, "compressed-tensors", ignored, model)) == {
        at: None if asks_more else "bf16"
    }


@pytest.mark.parametrize(
    ("weights", "inputs", "linears", "experts"),
    [
        ({"strategy": "channel"}, {"strategy": "tensor", "dynamic": True}, "fp8_token", None),
        (
            {"strategy": "tensor"},
            {"strategy": "token", "dynamic": True},
            "fp8_tensor_dynamic",
            None,
        ),
        ({"strategy": "channel"}, {"strategy": "tensor"}, "other", None),
        ({"strategy": "tensor"}, None, "other", None),
        ({"strategy": "group", "group_size": 64}, PER_GROUP, None, None),
        (BLOCKS, PER_GROUP, "fp8_block", "fp8_block"),
        ({**BLOCKS, "block_structure": "64x64"}, PER_GROUP, "other", "other"),
        (BLOCKS, {"strategy": "tensor"}, None, "other"),
    ],
)
def test_pairs_that_vllm_has_and_has_not(
    weights: dict[str, Any], inputs: dict[str, Any], linears: str | None, experts: str | None
) -> None:
    found = treatments(read(CONSUMER, "compressed-tensors", scheme(weights, inputs), mixtral()))
    assert found["model.layers.0.self_attn.o_proj"] == linears
    assert found[EXPERTS] == experts


def test_blocks_that_parts_do_not_fill_are_refused() -> None:
    modules = tuple(
        replace(m, out_features=64) if m.name.endswith("k_proj") else m for m in llama(1).modules
    )
    model = replace(llama(1), modules=modules)
    block = compressed([], ["Linear"], "fp8_block")
    for form, data in (
        ("compressed-tensors", block),
        ("fp8", fp8([], activation_scheme="dynamic", weight_block_size=[128, 128])),
    ):
        found = outcomes(read(CONSUMER, form, data, model))
        wrong = [name for name, outcome in found.items() if outcome.treatment is None]
        assert wrong == ["model.layers.0.self_attn.qkv_proj"]
        assert "64 rows" in found[wrong[0]].error


def test_compressed_tensors_without_a_format_raises() -> None:
    data = compressed([], ["Linear"])
    del data["format"]
    found = outcomes(read(CONSUMER, "compressed-tensors", data, llama()))
    assert found[DOWN].error == "vLLM has no scheme for FP8 in format None"


def test_phi3_lies_fused_and_is_listed_by_its_own_name() -> None:
    whole = "model.layers.0.self_attn.qkv_proj"
    shards = [f"model.layers.0.self_attn.{n}_proj" for n in "qkv"]
    for form, listed in (("fp8", fp8), ("hf-quant-config", nested)):
        assert kept(form, listed([whole]), whole, phi3()) is True
        assert kept(form, listed(shards), whole, phi3()) is False


def test_a_bare_head_is_not_renamed_and_stays_all_the_same() -> None:
    model = llama(2, "model.language_model.", "LlavaForConditionalGeneration")
    head, named = "language_model.lm_head", compressed(["lm_head"], ["Linear"])
    assert kept("compressed-tensors", named, head, model) is True
    assert prove(read(CONSUMER, "compressed-tensors", named, model)).faults == ()
    target = compressed(["lm_head"], ["Linear", "re:.*lm_head"])
    assert kept("compressed-tensors", target, head, model) is False
    reading = read(CONSUMER, "compressed-tensors", target, model)
    hits = {pattern.text: reading.hits(pattern, head) for pattern in reading.patterns}
    assert hits == {"lm_head": False, "Linear": False, "re:.*lm_head": True}
    assert kept("hf-quant-config", nested(["lm_head"]), head, model) is True  # a part of the name


def test_vision_language_prefixes() -> None:
    model = llama(2, "model.language_model.", "LlavaForConditionalGeneration")
    ours, down = "language_model.model.layers.0.mlp.down_proj", "layers.0.mlp.down_proj"
    listed = [f"model.language_model.{down}"]
    assert kept("fp8", fp8(listed), ours, model) is True
    assert kept("fp8", fp8([ours]), ours, model) is True
    assert kept("hf-quant-config", nested(listed), ours, model) is True
    assert kept("hf-quant-config", mixed({listed[0]: "FP8"}), ours, model) is False
    assert kept("compressed-tensors", compressed(listed, ["Linear"]), ours, model) is True
    # online lists are in vLLM's names and are never renamed
    targets = dict.fromkeys(listed, "fp8_per_channel")
    assert kept("vllm", {"targets": targets}, ours, model) is True
    assert kept("vllm", {"targets": {ours: "fp8_per_channel"}}, ours, model) is False


@pytest.mark.parametrize(
    ("targets", "layer", "treatment", "says"),
    [
        ({QKV: "fp8_per_channel"}, QKV, "fp8_token", ""),
        (dict.fromkeys(SHARDS, "fp8_per_block"), QKV, "fp8_block", ""),
        ({SHARDS[0]: "fp8_per_block"}, QKV, None, "name only some of its shards"),
        ({QKV: "fp8_per_block", SHARDS[0]: "fp8_per_tensor"}, QKV, "fp8_block", ""),
        ({"*.mlp.*": "fp8_per_tensor"}, DOWN, "fp8_tensor_dynamic", ""),
        ({"*.mlp.*": "fp8_per_tensor", DOWN: "fp8_per_block"}, DOWN, None, "several targets"),
        ({"re:.*down_proj": "fp8_per_tensor"}, DOWN, "fp8_tensor_dynamic", ""),
        ({"down_proj": "fp8_per_tensor"}, DOWN, "bf16", ""),
        ({"model.layers.1.*": "fp8_per_tensor"}, O_PROJ, None, "model.layers.1.self_attn.attn"),
        ({"*": "fp8_per_tensor"}, "lm_head", None, "quantizes no head online"),
        ({DOWN: "int8_per_channel_weight_only"}, DOWN, None, "is only for experts"),
        (
            {SHARDS[0]: "fp8_per_block", SHARDS[1]: "fp8_per_tensor", SHARDS[2]: "fp8_per_block"},
            QKV,
            None,
            "targets of different schemes",
        ),
    ],
)
def test_online_targets(
    targets: dict[str, str], layer: str, treatment: str | None, says: str
) -> None:
    found = outcomes(read(CONSUMER, "vllm", {"targets": targets}, llama()))[layer]
    assert found.treatment == treatment
    assert says in found.error
    assert bool(found.error) is (treatment is None)


def test_online_ignore_and_targets_may_not_meet() -> None:
    data = {"targets": {DOWN: "fp8_per_block"}, "ignore": ["*.down_proj"]}
    found = outcomes(read(CONSUMER, "vllm", data, llama()))
    assert found[DOWN].error == f"ignore and target {DOWN!r} both match it"
    assert found[TENTH].treatment == "bf16"


def test_online_linear_and_moe() -> None:
    data = {"linear": "fp8_per_channel", "moe": "fp8_per_block", "ignore": ["*.o_proj"]}
    found = treatments(read(CONSUMER, "vllm", data, mixtral()))
    assert found["model.layers.1.self_attn.qkv_proj"] == "fp8_token"
    assert found["model.layers.1.self_attn.o_proj"] == "bf16"
    assert found[EXPERTS] == "fp8_block"
    assert found["lm_head"] == "bf16"
    only = treatments(read(CONSUMER, "vllm", {"linear": "fp8_per_tensor"}, mixtral()))
    assert only[EXPERTS] == "bf16"
    assert only["model.layers.1.self_attn.o_proj"] == "fp8_tensor_dynamic"
    split = {"linear": "fp8_per_tensor", "ignore": SHARDS[:1]}
    assert kept("vllm", split, QKV, llama()) is RAISES


@pytest.mark.parametrize(
    ("linear_", "treatment", "says"),
    [
        ("fp8_per_channel_static", "fp8_token", ""),
        ({"weight": "fp8_per_block_static"}, "fp8_block", ""),
        ({"weight": "fp8_per_tensor_dynamic"}, None, "cannot quantize weights"),
        ({"weight": "fp8_per_tensor_static", "activation": "fp8_per_token"}, None, "activations"),
        ({"activation": "fp8_per_token"}, "bf16", ""),
    ],
)
def test_online_formats(linear_: Any, treatment: str | None, says: str) -> None:
    found = outcomes(read(CONSUMER, "vllm", {"linear": linear_}, llama()))[DOWN]
    assert found.treatment == treatment
    assert says in found.error


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("hf-quant-config", {}),
        ("hf-quant-config", {"quantization": {"exclude_modules": []}}),
        ("hf-quant-config", nested([], "FP9")),
        ("hf-quant-config", nested([], "MIXED_PRECISION")),
        ("hf-quant-config", mixed({}) | {"quantization": {"quant_algo": "MIXED_PRECISION"}}),
        ("hf-quant-config", {"quantization": {"quant_algo": "FP8", "exclude_modules": "lm_head"}}),
        ("fp8", {"quant_method": "fp8"}),
        ("fp8", fp8([], weight_block_size=[128, 128])),
        ("vllm", {}),
        ("vllm", {"ignore": []}),
        ("vllm", {"targets": {"a": "fp8"}}),
        ("vllm", {"targets": {"re:[": "fp8_per_block"}}),
        ("vllm", {"targets": {}, "linear": "fp8_per_block"}),
        ("vllm", {"linear": "int8_per_channel_weight_only"}),
        ("vllm", {"linear": "fp9"}),
        ("vllm", {"linear": "fp8_per_block", "exclude": []}),
        ("vllm", {"linear": "fp8_per_block", "ignore": "lm_head"}),
        ("compressed-tensors", {"config_groups": {"group_0": {"targets": ["Linear"]}}}),
    ],
)
def test_what_cannot_be_read(form: str, data: dict[str, Any]) -> None:
    with pytest.raises(CannotRead) as error:
        read(CONSUMER, form, data, llama())
    assert "config.json" in str(error.value)
    assert error.value.remedy


def test_what_one_entry_hits() -> None:
    reading = read(CONSUMER, "hf-quant-config", nested(["model.layers.1", *SHARDS[:1]]), llama())
    wide, shard = reading.patterns
    layers = {layer.name: layer for layer in reading.layers}
    assert layers[QKV].shards == tuple(SHARDS)
    assert [n for n in layers if reading.hits(wide, n)] == [
        n for n in layers if n.startswith(("model.layers.1.", "model.layers.10", "model.layers.11"))
    ]
    assert not reading.hits(shard, QKV)
    assert [n for n in layers[QKV].shards if reading.hits(shard, n)] == SHARDS[:1]
