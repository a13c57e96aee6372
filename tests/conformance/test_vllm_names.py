"""vLLM's names: its mapper against recorded answers, and the layers of families that rename."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from fp8scope.core.modules import Kind, Model, Module
from fp8scope.export.consumer import Layer
from fp8scope.export.matchers.vllm_names import Mapper, Names, names
from tests.export.engine_shapes import linear, llama, mixtral, phi3

TABLES = Path(__file__).parent / "tables"
MODELS = Path(__file__).parents[2] / "fp8scope/export/matchers/vllm_models.json"
WHEEL = "vllm-0.33.0-cp38-abi3-manylinux_2_28_x86_64.whl"
SHA256 = "4b6bdec4ab269990bf70d45a3c1e94c3760a27064513760193b26d6f0da883aa"
TABLE_NAMES = [
    "find-matched-target",
    "is-layer-skipped",
    "modelopt-excluded",
    "modelopt-mapped",
    "modelopt-mixed",
    "online-targets",
    "should-ignore-layer",
    "weights-mapper",
]
QKV = ("q_proj", "k_proj", "v_proj")
LLAMA_FUSED = {"qkv_proj": list(QKV), "gate_up_proj": ["gate_proj", "up_proj"]}
LLAMA_PARTS = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]


def model(architecture: str, parts: Iterable[tuple[str, Kind]]) -> Model:
    return Model("m", architecture, "m", tuple(linear(name, kind) for name, kind in parts))


def shapes(found: Names) -> dict[str, tuple[str, int]]:
    return {layer.name: (layer.kind, len(layer.modules)) for layer in found.layers}


def layer(found: Names, name: str) -> Layer:
    return next(each for each in found.layers if each.name == name)


def text_block(prefix: str) -> list[tuple[str, Kind]]:
    attention = [f"{prefix}self_attn.{n}_proj" for n in "qkvo"]
    return [(name, "linear") for name in attention] + [
        (f"{prefix}mlp.{n}_proj", "linear") for n in ("gate", "up", "down")
    ]


@pytest.mark.parametrize("table", TABLE_NAMES)
def test_every_table_names_the_wheel_and_has_640_cases(table: str) -> None:
    recorded = json.loads((TABLES / f"vllm-0.33.0-{table}.json").read_text())
    assert recorded["about"] == {"vllm": "0.33.0", "wheel": WHEEL, "sha256": SHA256}
    assert len(recorded["cases"]) == 640


def test_of_415_architectures_the_declarations_of_376_could_be_read() -> None:
    recorded = json.loads(MODELS.read_text())
    about, unresolved = recorded["about"], recorded["unresolved"]
    assert (about["vllm"], about["wheel"], about["sha256"]) == ("0.33.0", WHEEL, SHA256)
    assert (about["resolved"], about["unresolved"]) == (376, 39)
    assert (len(recorded["classes"]), len(unresolved)) == (376, 39)
    why = Counter(reason.split(":")[0] for reason in unresolved.values())
    assert why == {"the Transformers backend": 35, "computed": 4}


def test_the_mapper_renames_all_640_recorded_names_as_vllm_does() -> None:
    cases = json.loads((TABLES / "vllm-0.33.0-weights-mapper.json").read_text())["cases"]
    assert [case for case in cases if Mapper(**case[1]).name(case[0]) != case[2]] == []
    kinds = Counter(
        "dropped" if new is None else "kept" if new == name else "renamed" for name, _, new in cases
    )
    assert kinds == {"dropped": 21, "kept": 300, "renamed": 319}
    assert Counter(kind for case in cases for kind in case[1]) == {
        "prefixes": 528,
        "substrings": 192,
        "suffixes": 36,
        "regexes": 14,
    }


def test_the_mapper_renames_all_640_recorded_lists_of_modelopt_as_vllm_does() -> None:
    cases = json.loads((TABLES / "vllm-0.33.0-modelopt-mapped.json").read_text())["cases"]

    def rewritten(entries: list[str]) -> list[str]:
        pairs = (
            (e[:-1], f"{e[:-1]}.*") if e[1:].endswith("*") and e[-2] != "." else (e,)
            for e in entries
        )
        return [entry for pair in pairs for entry in pair]

    def listed(entries: list[str], mapper: Mapper) -> list[str]:
        return Names((), {}, mapper, known=True).listed(rewritten(entries))

    assert [case for case in cases if listed(case[0], Mapper(**case[1])) != case[2]] == []


def test_llama() -> None:
    found = names(llama(2))
    parts = [f"model.layers.{block}.{part}" for block in range(2) for part in LLAMA_PARTS]
    assert [each.name for each in found.layers] == [*parts, "lm_head"]
    assert found.fused == LLAMA_FUSED
    assert layer(found, "model.layers.1.self_attn.qkv_proj").shards == tuple(
        f"model.layers.1.self_attn.{part}" for part in QKV
    )
    assert layer(found, "model.layers.1.mlp.down_proj").shards == ()
    assert found.listed(["lm_head", "model.layers.0*"]) == ["lm_head", "model.layers.0*"]
    assert (found.known, found.plain) == (True, frozenset())


def test_mixtral_has_all_experts_of_a_layer_in_one_and_never_quantizes_its_gate() -> None:
    found = names(mixtral())
    at = "model.layers.0"
    assert dict(list(shapes(found).items())[:4]) == {
        f"{at}.self_attn.qkv_proj": ("linear", 3),
        f"{at}.self_attn.o_proj": ("linear", 1),
        f"{at}.block_sparse_moe.gate": ("linear", 1),
        f"{at}.block_sparse_moe.experts": ("experts", 9),
    }
    assert len(layer(found, f"{at}.block_sparse_moe.experts").shards) == 9
    assert found.fused == {"qkv_proj": list(QKV)}
    assert found.plain == {f"model.layers.{block}.block_sparse_moe.gate" for block in range(2)}
    # made for checkpoints that name experts so, it renames in lists what has a dot behind it
    assert found.listed(["a.gate_proj", "a.gate_proj.b"]) == ["a.gate_proj", "a.w1.b"]


def test_granite_renames_experts_and_router_of_the_files() -> None:
    at = "model.layers.0.block_sparse_moe"
    parts: list[tuple[str, Kind]] = [
        (f"{at}.router.layer", "router"),
        (f"{at}.input_linear", "expert"),
        (f"{at}.output_linear", "expert"),
    ]
    found = names(model("GraniteMoeForCausalLM", parts))
    assert shapes(found) == {f"{at}.gate": ("linear", 1), f"{at}.experts": ("experts", 2)}
    assert found.plain == {f"{at}.gate"}
    # that is for weights: a list is not looked through
    assert found.listed([f"{at}.router.layer"]) == [f"{at}.router.layer"]
    assert not found.renames


def test_experts_are_called_so_where_the_files_have_no_such_level() -> None:
    at = "model.layers.0.block_sparse_moe"
    parts: list[tuple[str, Kind]] = [(f"{at}.w1", "expert"), (f"{at}.w2", "expert")]
    assert shapes(names(model("NobodysForCausalLM", parts))) == {f"{at}.experts": ("experts", 2)}


def test_qwen3_moe_fuses_the_mlp_of_its_dense_layers_without_knowing_the_parts() -> None:
    at = "model.layers.0"
    parts = text_block(f"{at}.")
    sparse = "model.layers.1.mlp"
    parts += [(f"{sparse}.gate", "router"), (f"{sparse}.shared_expert_gate", "linear")]
    parts += [
        (f"{sparse}.experts.{i}.{n}_proj", "expert")
        for i in range(2)
        for n in ("gate", "up", "down")
    ]
    found = names(model("Qwen3MoeForCausalLM", parts))
    assert shapes(found) == {
        f"{at}.self_attn.qkv_proj": ("linear", 3),
        f"{at}.self_attn.o_proj": ("linear", 1),
        f"{at}.mlp.gate_up_proj": ("linear", 2),
        f"{at}.mlp.down_proj": ("linear", 1),
        f"{sparse}.gate": ("linear", 1),
        f"{sparse}.shared_expert_gate": ("linear", 1),
        f"{sparse}.experts": ("experts", 6),
    }
    # the constructor adds gate_up_proj, but to the class's map, of which lists have a copy by then
    assert found.fused == {"qkv_proj": list(QKV)}
    assert found.plain == {f"{sparse}.shared_expert_gate"}
    # Qwen2-MoE hands over the map itself
    assert names(model("Qwen2MoeForCausalLM", parts)).fused == LLAMA_FUSED


def test_phi3_is_fused_in_the_files_and_its_parts_are_called_as_the_whole() -> None:
    found = names(phi3())
    parts = [f"model.layers.{block}.{part}" for block in range(2) for part in LLAMA_PARTS]
    assert [each.name for each in found.layers] == [*parts, "lm_head"]
    assert found.fused == {"qkv_proj": ["qkv_proj"], "gate_up_proj": ["gate_up_proj"]}
    qkv = "model.layers.0.self_attn.qkv_proj"
    assert layer(found, qkv).shards == (qkv,)


@pytest.mark.parametrize(
    ("text", "vision", "head"),
    [
        ("model.language_model.", "model.vision_tower.", "lm_head"),
        ("language_model.model.", "vision_tower.", "language_model.lm_head"),
    ],
)
def test_gemma3_with_images_under_both_prefixes_of_its_files(
    text: str, vision: str, head: str
) -> None:
    tower = f"{vision}vision_model.encoder.layers.0.self_attn."
    parts: list[tuple[str, Kind]] = [(f"{tower}{n}_proj", "linear") for n in ("q", "k", "v", "out")]
    parts += text_block(f"{text}layers.0.")
    found = names(model("Gemma3ForConditionalGeneration", [*parts, (head, "lm_head")]))
    engine = "vision_tower.vision_model.encoder.layers.0.self_attn."
    block = "language_model.model.layers.0."
    assert shapes(found) == {
        f"{engine}qkv_proj": ("linear", 3),
        f"{engine}out_proj": ("linear", 1),
        f"{block}self_attn.qkv_proj": ("linear", 3),
        f"{block}self_attn.o_proj": ("linear", 1),
        f"{block}mlp.gate_up_proj": ("linear", 2),
        f"{block}mlp.down_proj": ("linear", 1),
        "language_model.lm_head": ("lm_head", 1),
    }
    assert layer(found, f"{block}self_attn.qkv_proj").shards[0] == f"{block}self_attn.q_proj"
    # a prefix of weights ends in a dot: the head's own name in a list stays as it is
    assert found.listed(["lm_head", f"{text}layers.0.mlp.down_proj"]) == [
        "lm_head",
        f"{block}mlp.down_proj",
    ]


@pytest.mark.parametrize(
    ("architecture", "text", "vision"),
    [
        ("Qwen2VLForConditionalGeneration", "model.", "visual."),
        ("Qwen2VLForConditionalGeneration", "model.language_model.", "model.visual."),
        ("Qwen3VLForConditionalGeneration", "model.language_model.", "model.visual."),
    ],
)
def test_qwen_with_images(architecture: str, text: str, vision: str) -> None:
    parts: list[tuple[str, Kind]] = [(f"{vision}blocks.0.attn.qkv", "linear")]
    parts += [*text_block(f"{text}layers.0."), ("lm_head", "lm_head")]
    found = names(model(architecture, parts))
    block = "language_model.model.layers.0"
    assert [each.name for each in found.layers] == [
        "visual.blocks.0.attn.qkv",
        *(f"{block}.{part}" for part in LLAMA_PARTS),
        "language_model.lm_head",
    ]
    entry = f"{text}layers.0.mlp.down_proj"
    assert found.listed([entry, "lm_head"]) == [f"{block}.mlp.down_proj", "lm_head"]


def test_qwen2_vl_has_its_fused_map_from_its_text_part_and_qwen3_vl_its_own() -> None:
    qwen2 = names(model("Qwen2VLForConditionalGeneration", []))
    qwen3 = names(model("Qwen3VLForConditionalGeneration", []))
    assert qwen2.fused == LLAMA_FUSED
    assert qwen3.fused == {**LLAMA_FUSED, "qkv": ["qkv"]}


def test_a_text_part_that_config_json_names_is_taken_for_one_like_llama() -> None:
    found = names(llama(1, "model.language_model.", "Mistral3ForConditionalGeneration"))
    assert (found.known, found.fused) == (True, LLAMA_FUSED)
    assert next(each.name for each in found.layers) == (
        "language_model.model.layers.0.self_attn.qkv_proj"
    )


def test_a_text_part_may_be_named_through_with_hf_config() -> None:
    """Kimi Audio names Qwen2 there, Ovis and Ultravox what config.json names."""
    for architecture in ("MoonshotKimiaForCausalLM", "Ovis", "Ovis2_5", "UltravoxModel"):
        fused = names(llama(1, architecture=architecture)).fused
        assert {whole: list(parts) for whole, parts in fused.items()} == LLAMA_FUSED


def test_kimi_linear_has_its_fused_map_from_the_class_inside_it() -> None:
    at = "model.layers.0.self_attn."
    parts = ["q_proj", "k_proj", "v_proj", "b_proj", "f_a_proj"]
    linears: list[tuple[str, Kind]] = [(f"{at}{n}", "linear") for n in (*parts, "o_proj")]
    found = names(model("KimiLinearForCausalLM", linears))
    assert shapes(found) == {
        f"{at}in_proj_qkvgfab": ("linear", 5),
        f"{at}o_proj": ("linear", 1),
    }
    assert found.fused["in_proj_qkvgfab"] == parts


def test_deepseek_v3_fuses_what_compresses_queries_and_values() -> None:
    at, mlp = "model.layers.0.self_attn", "model.layers.0.mlp"
    latent = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
    parts: list[tuple[str, Kind]] = [(f"{at}.{part}", "linear") for part in latent]
    parts += [(f"{mlp}.gate", "router")]
    parts += [(f"{mlp}.shared_experts.{n}_proj", "linear") for n in ("gate", "up", "down")]
    parts += [(f"{mlp}.experts.{i}.gate_proj", "expert") for i in range(2)]
    found = names(model("DeepseekV3ForCausalLM", parts))
    assert shapes(found) == {
        f"{at}.fused_qkv_a_proj": ("linear", 2),
        f"{at}.q_b_proj": ("linear", 1),
        f"{at}.kv_b_proj": ("linear", 1),
        f"{at}.o_proj": ("linear", 1),
        f"{mlp}.gate": ("linear", 1),
        f"{mlp}.shared_experts.gate_up_proj": ("linear", 2),
        f"{mlp}.shared_experts.down_proj": ("linear", 1),
        f"{mlp}.experts": ("experts", 2),
    }
    assert layer(found, f"{at}.fused_qkv_a_proj").shards == (
        f"{at}.q_a_proj",
        f"{at}.kv_a_proj_with_mqa",
    )
    assert found.fused == {
        "gate_up_proj": ["gate_proj", "up_proj"],
        "fused_qkv_a_proj": ["q_a_proj", "kv_a_proj_with_mqa"],
    }
    assert found.plain == {f"{mlp}.gate"}


def test_deepseek_without_compressed_queries_does_not() -> None:
    at = "model.layers.0.self_attn"
    parts: list[tuple[str, Kind]] = [
        (f"{at}.{part}", "linear") for part in ("q_proj", "kv_a_proj_with_mqa", "kv_b_proj")
    ]
    found = names(model("DeepseekV2ForCausalLM", parts))
    assert [each.name for each in found.layers] == [name for name, _ in parts]
    assert found.fused == {"gate_up_proj": ["gate_proj", "up_proj"]}


def test_gpt_oss_calls_its_attention_otherwise_and_never_quantizes_head_and_router() -> None:
    at = "model.layers.0"
    parts: list[tuple[str, Kind]] = [(f"{at}.self_attn.{n}_proj", "linear") for n in "qkvo"]
    parts += [(f"{at}.mlp.router", "router")]
    parts += [(f"{at}.mlp.experts.{n}_proj", "expert") for n in ("gate_up", "down")]
    found = names(model("GptOssForCausalLM", [*parts, ("lm_head", "lm_head")]))
    assert shapes(found) == {
        f"{at}.attn.qkv_proj": ("linear", 3),
        f"{at}.attn.o_proj": ("linear", 1),
        f"{at}.mlp.router": ("linear", 1),
        f"{at}.mlp.experts": ("experts", 2),
        "lm_head": ("lm_head", 1),
    }
    assert found.plain == {f"{at}.mlp.router", "lm_head"}
    assert found.listed([f"{at}.self_attn.q_proj"]) == [f"{at}.attn.q_proj"]


def test_names_that_rules_would_make_one_stay_apart() -> None:
    parts: list[tuple[str, Kind]] = [
        ("lm_head", "lm_head"),
        ("language_model.lm_head", "linear"),
    ]
    found = names(model("LlavaForConditionalGeneration", parts))
    assert [len(each.modules) for each in found.layers] == [1]


def test_an_architecture_that_vllm_does_not_have_is_like_llama() -> None:
    found = names(llama(1, architecture="NobodysForCausalLM"))
    assert (found.known, found.fused, found.mapper) == (False, LLAMA_FUSED, Mapper())
    assert [each.name for each in found.layers] == [
        *(f"model.layers.0.{part}" for part in LLAMA_PARTS),
        "lm_head",
    ]


def test_the_layers_of_a_model_hold_each_module_once() -> None:
    for each in (llama(2), mixtral(), phi3()):
        modules: list[Module] = [m for built in names(each).layers for m in built.modules]
        assert sorted(m.name for m in modules) == sorted(m.name for m in each.modules)


def test_a_text_part_renames_once_more_what_follows_its_prefix() -> None:
    found = names(llama(1, "model.language_model.", "Gemma4ForConditionalGeneration"))
    assert [each.name for each in found.layers][:4] == [
        f"language_model.model.layers.0.{part}" for part in LLAMA_PARTS
    ]
    mapper = Mapper(prefixes={"model.": "language_model."}, then=Mapper(prefixes={"a.": "b."}))
    # of a weight the text part's class sees the rest; of a list it sees the whole entry
    assert mapper.weight("model.a.c") == "language_model.b.c"
    assert mapper.name("model.a.c") == "language_model.a.c"
    assert mapper.name("a.c") == "b.c"


def test_only_a_class_with_a_mapper_has_lists_looked_through() -> None:
    of = {
        "LlamaForCausalLM": True,  # its mapper fuses, and renames nothing
        "MixtralForCausalLM": True,
        "Mistral3ForConditionalGeneration": True,
        "DeepseekV3ForCausalLM": False,
        "Phi3ForCausalLM": True,
    }
    assert {each: names(model(each, [])).renames for each in of} == of
