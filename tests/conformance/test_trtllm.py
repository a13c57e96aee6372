"""What TensorRT-LLM's PyTorch backend does with lists that people write, by version.

There is no wheel to run: the matcher is held against a second one, written from the description in
its sources, and the rest case by case.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp8scope.checkpoint.schemes import SCHEMES
from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import CannotRead, Outcome
from fp8scope.export.consumers.trtllm import CONSUMER
from fp8scope.export.matchers.trtllm_match import VERSIONS, is_excluded
from tests.export.engine_shapes import llama, mixtral, outcomes, phi3, read, treatments

QKV = "model.layers.1.self_attn.qkv_proj"
O_PROJ = "model.layers.1.self_attn.o_proj"
DOWN = "model.layers.1.mlp.down_proj"
TENTH = "model.layers.10.mlp.down_proj"
GATE_UP = "model.layers.1.mlp.gate_up_proj"
SHARDS = [f"model.layers.1.self_attn.{n}_proj" for n in "qkv"]

# exclude → layer: kept by the newer versions, and by 1.2
ROWS = [
    (SHARDS, QKV, True, True),
    (SHARDS[:1], QKV, True, True),
    (["*.q_proj", "*.k_proj", "*.v_proj"], QKV, True, True),
    (["model.layers.1.self_attn*"], O_PROJ, True, True),
    (["model.layers.1"], TENTH, False, False),
    (["model.layers.1*"], TENTH, True, True),
    (["re:.*down_proj$"], DOWN, True, False),
    (["down_proj"], DOWN, False, False),
    (["mlp.gate"], GATE_UP, False, False),
    ([DOWN], DOWN, True, True),
    # a parent, by itself and with what is below it
    (["model.layers.1"], DOWN, True, False),
    (["model.layers.1.*"], DOWN, True, True),
    (["model.layers.1.mlp.down_proj.*"], DOWN, "1.3", False),
]


def nested(excluded: list[str], algorithm: str = "FP8", **more: Any) -> dict[str, Any]:
    section = {"quant_algo": algorithm, "exclude_modules": excluded, **more}
    return {"producer": {"name": "modelopt"}, "quantization": section}


def outcome(data: dict[str, Any], layer: str, model: Model, version: str) -> Outcome:
    return outcomes(read(CONSUMER, "hf-quant-config", data, model, version))[layer]


@pytest.mark.parametrize(("excluded", "layer", "newer", "old"), ROWS)
def test_exclusions_by_version(
    excluded: list[str], layer: str, newer: bool | str, old: bool
) -> None:
    kept = {v: outcome(nested(excluded), layer, llama(), v).treatment == "bf16" for v in VERSIONS}
    assert kept == {
        "1.2": old,
        "1.3.0rc": newer is True,
        "1.3": newer is True or newer == "1.3",
    }


NAMES = st.lists(
    st.sampled_from(
        ["model", "layers", "1", "10", "self_attn", "mlp", "q_proj", "experts", "gate"]
    ),
    min_size=1,
    max_size=6,
).map(".".join)


@st.composite
def entries(draw: st.DrawFn) -> str:
    name = draw(NAMES)
    cut = draw(st.integers(1, len(name)))
    made = [name, name[:cut], f"{name[:cut]}*", f"*{name[-cut:]}", f"{name}.*", f"*.{name}*"]
    made += [f"re:{name}", f"re:.*{name[-cut:]}$", f"re:{re.escape(name[:cut])}.*", "?odel*"]
    made += ["[mn]odel.layers.*", f"{name[:cut]}.*", ""]
    return draw(st.sampled_from(made))


def second_opinion(name: str, listed: list[str], version: str) -> bool:
    """Old: some entry is a glob of the whole name. Newer: of it or of any dotted ancestor, an entry
    with `re:` an expression of all of it. Newest: `x.*` is also x.
    """
    if version == "1.2":
        return bool([e for e in listed if re.match(fnmatch.translate(e), name)])
    ancestors = [name[: dot.start()] for dot in re.finditer(r"\.", name)]
    expressions = []
    for entry in listed:
        if entry[:3] == "re:":
            expressions.append(f"(?:{entry[3:]})\\Z")
            continue
        expressions.append(fnmatch.translate(entry))
        if version == "1.3" and entry[-2:] == ".*":
            expressions.append(fnmatch.translate(entry[:-2]))
    return any(re.match(e, each) for e in expressions for each in [name, *ancestors])


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=600, derandomize=True, deadline=None)
@given(name=NAMES, listed=st.lists(entries(), max_size=3))
def test_two_matchers_never_differ(version: str, name: str, listed: list[str]) -> None:
    assert is_excluded(name, listed, version) == second_opinion(name, listed, version)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(name=NAMES, listed=st.lists(entries(), max_size=3))
def test_a_newer_version_excludes_no_less(name: str, listed: list[str]) -> None:
    found = [is_excluded(name, listed, version) for version in VERSIONS]
    assert found == sorted(found)
    assert all(is_excluded(name, [*listed, name], version) for version in VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_one_shard_keeps_all_of_a_fused_layer_without_a_word(version: str) -> None:
    found = outcome(nested(SHARDS[1:2]), QKV, llama(), version)
    assert found == Outcome("bf16", note=f"k_proj alone keeps all of {QKV} in BF16")
    assert outcome(nested(SHARDS), QKV, llama(), version) == Outcome("bf16")


@pytest.mark.parametrize(
    ("algorithm", "treatment"),
    [
        ("FP8", "fp8_tensor"),
        ("FP8_PER_CHANNEL_PER_TOKEN", "fp8_token"),
        ("FP8_BLOCK_SCALES", "fp8_block"),
        ("fp8_pb_wo", "fp8_block"),
        ("NVFP4", "other"),
        ("W4A8_AWQ", "other"),
        ("FP8_PB_WO", None),  # only in lower case
        ("fp8", None),
    ],
)
def test_algorithms(algorithm: str, treatment: Treatment | None) -> None:
    found = outcome(nested([], algorithm), DOWN, llama(), "1.3")
    assert found.treatment == treatment
    assert bool(found.error) == (treatment is None)


def test_the_head_and_routers_are_never_quantized() -> None:
    found = treatments(read(CONSUMER, "hf-quant-config", nested([]), mixtral()))
    assert [name for name, treatment in found.items() if treatment == "bf16"] == [
        "model.layers.0.block_sparse_moe.gate",
        "model.layers.1.block_sparse_moe.gate",
        "lm_head",
    ]
    assert Counter(found.values()) == {"fp8_tensor": 6, "bf16": 3}


def test_experts_are_listed_by_their_own_name() -> None:
    experts = "model.layers.1.block_sparse_moe.experts"
    one_each = [f"{experts}.{n}.{w}" for n in range(3) for w in ("w1", "w2", "w3")]
    for version in VERSIONS:
        each = outcome(nested(one_each), experts, mixtral(), version)
        assert each == Outcome("fp8_tensor", note=f"TensorRT-LLM asks only for {experts}")
        assert outcome(nested([experts]), experts, mixtral(), version).treatment == "bf16"
    below = {
        v: outcome(nested([f"{experts}.*"]), experts, mixtral(), v).treatment for v in VERSIONS
    }
    assert below == {"1.2": "fp8_tensor", "1.3.0rc": "fp8_tensor", "1.3": "bf16"}


def test_experts_have_no_scales_per_token() -> None:
    data = nested([], "FP8_PER_CHANNEL_PER_TOKEN")
    found = outcome(data, "model.layers.1.block_sparse_moe.experts", mixtral(), "1.3")
    assert found.error == "TensorRT-LLM has no experts in FP8 per token"


def mixed(keys: dict[str, str], excluded: tuple[str, ...] = ()) -> dict[str, Any]:
    by_key = {key: {"quant_algo": algorithm} for key, algorithm in keys.items()}
    return nested(list(excluded), "MIXED_PRECISION", quantized_layers=by_key)


def test_a_fused_layer_takes_the_first_shards_algorithm() -> None:
    q_only = outcome(mixed({SHARDS[0]: "FP8"}), QKV, llama(), "1.3")
    assert q_only == Outcome("fp8_tensor", note=f"all of {QKV} takes what {SHARDS[0]} has")
    k_only = outcome(mixed({SHARDS[1]: "FP8"}), QKV, llama(), "1.3")
    assert k_only == Outcome("bf16", note=f"TensorRT-LLM asks only for {SHARDS[0]}")
    rowwise = "FP8_PER_CHANNEL_PER_TOKEN"
    both = outcome(mixed({SHARDS[1]: "FP8", SHARDS[0]: rowwise}), QKV, llama(), "1.3")
    assert both.treatment == "fp8_token"
    all_three = outcome(mixed(dict.fromkeys(SHARDS, rowwise)), QKV, llama(), "1.3")
    assert all_three == Outcome("fp8_token")
    # an excluded shard still wins
    assert outcome(mixed({SHARDS[0]: "FP8"}, (SHARDS[2],)), QKV, llama(), "1.3").treatment == "bf16"


def test_keys_of_other_layers_are_whole_names() -> None:
    assert outcome(mixed({DOWN: "FP8"}), DOWN, llama(), "1.3") == Outcome("fp8_tensor")
    assert outcome(mixed({"*.down_proj": "FP8"}), DOWN, llama(), "1.3") == Outcome("bf16")
    up = f"{GATE_UP.removesuffix('gate_up_proj')}up_proj"
    assert outcome(mixed({up: "FP8"}), GATE_UP, llama(), "1.3").treatment == "bf16"
    assert outcome(mixed({GATE_UP: "FP8"}), GATE_UP, llama(), "1.3").treatment == "fp8_tensor"
    experts = "model.layers.1.block_sparse_moe.experts"
    one = outcome(mixed({f"{experts}.2.w1": "FP8"}), experts, mixtral(), "1.3")
    assert one == Outcome("fp8_tensor", note=f"all of {experts} takes what {experts}.2.w1 has")


def test_phi3_lies_fused_and_its_key_is_never_asked_for() -> None:
    whole = "model.layers.0.self_attn.qkv_proj"
    found = outcome(mixed({whole: "FP8"}), whole, phi3(), "1.3")
    assert found.treatment == "bf16"
    assert found.note == "TensorRT-LLM asks only for model.layers.0.self_attn.q_proj"
    gate_up = "model.layers.0.mlp.gate_up_proj"
    assert outcome(mixed({gate_up: "FP8"}), gate_up, phi3(), "1.3") == Outcome("fp8_tensor")
    assert outcome(nested([whole]), whole, phi3(), "1.2") == Outcome("bf16")


def test_the_old_version_reads_neither_mixed_nor_flat() -> None:
    assert "quant_cfg.json" in outcome(mixed({DOWN: "FP8"}), DOWN, llama(), "1.2").error
    flat = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": [DOWN]}
    assert "reads only the form with `quantization`" in outcome(flat, DOWN, llama(), "1.2").error
    assert outcome(flat, DOWN, llama(), "1.3.0rc") == Outcome("bf16")
    anonymous = {"quant_algo": "FP8", "ignore": []}
    assert "says ModelOpt" in outcome(anonymous, DOWN, llama(), "1.3").error


def compressed(treatment: Treatment, ignore: list[str], **more: Any) -> dict[str, Any]:
    group = {**SCHEMES[treatment], "targets": ["Linear"]}
    return {"config_groups": {"group_0": group}, "ignore": ignore, **more}


@pytest.mark.parametrize("version", VERSIONS)
def test_compressed_tensors_of_one_group(version: str) -> None:
    found = {}
    for treatment in SCHEMES:
        reading = read(CONSUMER, "compressed-tensors", compressed(treatment, []), llama(), version)
        found[treatment] = outcomes(reading)[DOWN].treatment
    assert found == {
        "fp8_tensor": None,
        "fp8_tensor_dynamic": None,
        "fp8_token": "fp8_token",
        "fp8_block": "fp8_block",
    }
    # nobody reads the targets of the one group
    data = compressed("fp8_token", ["re:.*down_proj", DOWN.replace("1", "2")])
    data["config_groups"]["group_0"]["targets"] = ["no.such.module"]
    kept = treatments(read(CONSUMER, "compressed-tensors", data, llama(), version))
    assert kept[DOWN] == ("fp8_token" if version == "1.2" else "bf16")
    assert kept[DOWN.replace("1", "2")] == "bf16"
    assert kept[O_PROJ] == "fp8_token"


def test_compressed_tensors_of_several_groups() -> None:
    data = compressed("fp8_token", [DOWN])
    data["config_groups"]["group_0"]["targets"] = [*SHARDS, DOWN]
    blocks = {**SCHEMES["fp8_block"], "targets": [r"re:.*\.o_proj$", SHARDS[0]]}
    data["config_groups"]["group_1"] = blocks
    found = treatments(read(CONSUMER, "compressed-tensors", data, llama()))
    assert (found[QKV], found[DOWN], found[O_PROJ]) == ("fp8_block", "bf16", "fp8_block")
    assert found[TENTH] == "bf16"
    # before 1.3 only the first group counts, for all layers
    first = treatments(read(CONSUMER, "compressed-tensors", data, llama(), "1.3.0rc"))
    assert (first[QKV], first[DOWN], first[TENTH]) == ("fp8_token", "bf16", "fp8_token")
    blocks["targets"] = ["Linear"]
    error = outcomes(read(CONSUMER, "compressed-tensors", data, llama()))[DOWN].error
    assert error == "target Linear is no module of the checkpoint, and classes do not count"


@pytest.mark.parametrize(
    ("form", "data", "version"),
    [
        ("hf-quant-config", {"quantization": ["FP8"]}, "1.3"),
        ("hf-quant-config", nested([], quant_algo=None), "1.3"),
        ("hf-quant-config", {"quantization": {"quant_algo": "MIXED_PRECISION"}}, "1.3"),
        ("hf-quant-config", {"quantization": {"quant_algo": "FP8", "exclude_modules": "a"}}, "1.3"),
        ("compressed-tensors", {"ignore": []}, "1.3"),
        ("compressed-tensors", {"config_groups": {"FP8": SCHEMES["fp8_token"]}}, "1.2"),
    ],
)
def test_what_cannot_be_read(form: str, data: dict[str, Any], version: str) -> None:
    with pytest.raises(CannotRead) as error:
        read(CONSUMER, form, data, llama(), version)
    assert "config.json" in str(error.value)


def test_a_broken_expression() -> None:
    found = outcome(nested(["re:(["]), DOWN, llama(), "1.3")
    assert found.treatment is None
    assert "no regular expression" in found.error


def test_wrapped_decoders_are_models_of_their_own() -> None:
    prefix = "model.language_model."
    model = llama(2, prefix, "Qwen2_5_VLForConditionalGeneration")
    listed = f"{prefix}layers.1.mlp.down_proj"
    assert outcome(nested([listed]), DOWN, model, "1.3") == Outcome("fp8_tensor")
    assert outcome(nested([DOWN]), DOWN, model, "1.3") == Outcome("bf16")


def test_what_one_entry_hits() -> None:
    reading = read(CONSUMER, "hf-quant-config", nested([SHARDS[1], "model.layers.1*"]), llama())
    shard, wide = reading.patterns
    names = [layer.name for layer in reading.layers]
    assert [n for n in names if reading.hits(shard, n)] == [QKV]
    assert [n for n in SHARDS if reading.hits(shard, n)] == [SHARDS[1]]
    starts = ("model.layers.1.", "model.layers.10.", "model.layers.11.")
    assert [n for n in names if reading.hits(wide, n)] == [n for n in names if n.startswith(starts)]
    keyed = read(CONSUMER, "hf-quant-config", mixed({SHARDS[0]: "FP8", SHARDS[1]: "FP8"}), llama())
    assert [[n for n in names if keyed.hits(p, n)] for p in keyed.patterns] == [[QKV], []]
