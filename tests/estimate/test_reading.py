"""What is read of a folder or a plan: matmuls, geometry of the cache, embeddings; and refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fp8scope.artefacts.plan_file import write_plan
from fp8scope.checkpoint.inventory import Inventory, read_inventory
from fp8scope.core.gpus import gpu
from fp8scope.core.modules import Model
from fp8scope.core.roofline import Workload
from fp8scope.errors import BadInput, BadModel, Fp8scopeError, Stale
from fp8scope.estimate import reading
from fp8scope.estimate.api import estimate, read_served
from tests.estimate import models
from tests.estimate.conftest import Serve
from tests.export import plans, shapes

SMALL: dict[str, Any] = models.LLAMA_8B | {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 1536,
}


def test_a_llama_is_four_matmuls_a_block_and_a_head(serve: Serve) -> None:
    served = serve(SMALL)
    names = [gemm.name for gemm in served.gemms]
    block = "model.layers.0."
    assert {name.removeprefix(block) for name in names if name.startswith(block)} == {
        "self_attn.qkv",
        "self_attn.o_proj",
        "mlp.gate_up",
        "mlp.down_proj",
    }
    assert len(names) == 9
    assert names[-1] == "lm_head"
    shapes_of = {gemm.name.rpartition(".")[2]: gemm.shape for gemm in served.gemms}
    assert (shapes_of["qkv"].out_features, shapes_of["gate_up"].out_features) == (768, 1024)
    assert shapes_of["lm_head"].sampled
    assert served.embedding == 1536 * 256
    assert served.others == 5 * 256
    assert served.source == "model"
    assert served.left_out == ()


def test_a_tied_head_is_in_memory_once(serve: Serve) -> None:
    tied, untied = (serve(SMALL | {"tie_word_embeddings": flag}) for flag in (True, False))
    assert untied.parameters - tied.parameters == 1536 * 256
    load = Workload(1, 16, 16)
    times = [estimate(each, gpu("h100"), workload=load).bounds["bf16"] for each in (tied, untied)]
    assert times[0].decode_us == times[1].decode_us
    assert times[1].weight_bytes - times[0].weight_bytes == 2 * 1536 * 256


def test_an_fp8_checkpoint_says_what_it_is_in(serve: Serve) -> None:
    served = serve(SMALL, models.in_fp8(dict(models.llama(SMALL))))
    assert served.source == "checkpoint"
    assert {gemm.kind: gemm.own for gemm in served.gemms} == {
        "linear": "fp8_tensor",
        "lm_head": "bf16",
    }
    found = estimate(served, gpu("h100"), workload=Workload(4, 64, 16)).bounds
    assert found["plan"].weight_bytes == found["fp8"].weight_bytes < found["bf16"].weight_bytes
    assert found["plan"].prefill == found["fp8"].prefill
    assert served.others == 5 * 256  # scales are no weights


def test_its_cache_is_what_the_metadata_says(serve: Serve) -> None:
    quantization = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    config = SMALL | {"quantization_config": quantization}
    served = serve(config, models.in_fp8(dict(models.llama(SMALL))))
    assert {layer.own for layer in served.attention} == {"fp8"}
    found = estimate(served, gpu("h100")).bounds
    assert found["plan"].kv_bytes_per_token * 2 == found["bf16"].kv_bytes_per_token
    assert estimate(served, gpu("h100"), kv_cache="bf16").bounds["plan"].cache == "bf16"


def test_routed_experts_are_two_stacks_and_a_router(serve: Serve) -> None:
    served = serve(models.MIXTRAL | SMALL | {"num_hidden_layers": 1, "num_local_experts": 8})
    by_name = {gemm.name.removeprefix("model.layers.0."): gemm for gemm in served.gemms}
    up, down = by_name["mlp.experts.gate_up_proj"], by_name["mlp.experts.down_proj"]
    assert (up.shape.experts, up.shape.in_features, up.shape.out_features) == (8, 256, 1024)
    assert (down.shape.experts, down.shape.in_features, down.shape.out_features) == (8, 512, 256)
    assert {gemm.kind for gemm in by_name.values()} == {"linear", "expert", "router", "lm_head"}
    assert served.experts_per_token == 2


def test_experts_per_token_that_nobody_says_are_said(serve: Serve) -> None:
    config = models.MIXTRAL | SMALL | {"num_local_experts": 4}
    del config["num_experts_per_tok"]
    served = serve(config)
    assert served.experts_per_token == 8
    assert served.left_out == ("how many experts a token goes through: 8 are taken",)


def test_mla_caches_a_latent_and_the_rotated_key(serve: Serve) -> None:
    """DeepSeek-V3: (512 + 64)·2 bytes·61 layers = 70,272 bytes per token."""
    config = {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
        "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
        "num_key_value_heads": 128, "kv_lora_rank": 512, "q_lora_rank": 1536,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
    }  # fmt: skip
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for i in range(62):  # the last predicts a second token
        at = f"model.layers.{i}.self_attn"
        for name, rows, columns in (
            ("q_a_proj", 1536, 7168), ("q_b_proj", 128 * 192, 1536),
            ("kv_a_proj_with_mqa", 576, 7168), ("kv_b_proj", 128 * 256, 512),
            ("o_proj", 7168, 128 * 128),
        ):  # fmt: skip
            tensors[f"{at}.{name}.weight"] = ("BF16", (rows, columns))
    served = serve(config, tensors)
    assert served.kv_bytes_per_token("bf16") == 70_272
    assert served.left_out == ("layers after the first 61, which predict further tokens (MTP)",)
    assert not any(".61." in gemm.name for gemm in served.gemms)
    layer = served.attention[0]
    assert (layer.query, layer.output) == (192, 128)
    assert (layer.decode_query, layer.decode_output) == (576, 512)
    one, eight = (
        estimate(served, gpu("h200"), tp=tp, workload=Workload(8, 512, 64)).bounds["bf16"]
        for tp in (1, 8)
    )
    assert one.kv_bytes_per_token == eight.kv_bytes_per_token  # on every GPU


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"sliding_window": 64}, [64, 64, 64, 64]),  # Mistral
        ({"sliding_window": 64, "use_sliding_window": False}, [None] * 4),  # Qwen2
        ({"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 2},
         [None, None, 64, 64]),
        ({"sliding_window": 64, "model_type": "gemma2"}, [64, None, 64, None]),
        ({"sliding_window": 64, "sliding_window_pattern": 4}, [64, 64, 64, None]),
        ({"sliding_window": 64, "layer_types": ["full_attention"] * 3 + ["sliding_attention"]},
         [None, None, None, 64]),
        ({}, [None] * 4),
    ],
)  # fmt: skip
def test_windows(serve: Serve, changes: dict[str, Any], windows: list[int | None]) -> None:
    served = serve(SMALL | {"num_hidden_layers": 4} | changes)
    assert [layer.window for layer in served.attention] == windows
    load = Workload(1, 100, 28)
    tokens = sum(128 if window is None else window for window in windows)
    found = estimate(served, gpu("h100"), workload=load).bounds["bf16"]
    assert found.memory.cache == tokens * 2 * 4 * 64 * 2


def test_layers_without_keys_have_no_cache(serve: Serve) -> None:
    """A hybrid: only layer 1 attends."""
    tensors = {
        name: entry for name, entry in models.llama(SMALL) if "layers.0.self_attn" not in name
    }
    served = serve(SMALL, tensors)
    assert [layer.name for layer in served.attention] == ["layers.1"]


def test_towers_count_as_weights_alone(serve: Serve) -> None:
    tensors = dict(models.llama(SMALL)) | {"vision_tower.blocks.0.fc1.weight": ("BF16", (64, 32))}
    served = serve(SMALL, tensors)
    assert served.others == 5 * 256 + 64 * 32
    assert "towers for images" in served.left_out[0]


def test_a_plan_alone_and_with_its_model(serve: Serve, tmp_path: Path) -> None:
    """What the plan does not hold is said, and then filled in."""
    model = shapes.planned(shapes.llama(), "fp8_tensor", bf16=[shapes.DOWN0])
    path = _plan(model, tmp_path)
    alone = read_served(str(path))
    assert alone.source == "plan"
    assert "embeddings and norms" in alone.left_out[0]
    whole = read_served(str(path), str(models.write(tmp_path / "model", SMALL)))
    assert whole.left_out == ()
    assert whole.parameters - alone.parameters == 1536 * 256 + 5 * 256
    for served in (alone, whole):
        kept = [gemm.name for gemm in served.gemms if gemm.own == "bf16"]
        assert kept == [shapes.DOWN0, "lm_head"]
    found = estimate(whole, gpu("h100"), tp=4, workload=Workload(2, 64, 16)).bounds
    less = found["plan"].weight_bytes - found["fp8"].weight_bytes
    assert less == pytest.approx(256 * 512 / 4, abs=8)


def test_a_plan_of_experts(tmp_path: Path) -> None:
    served = read_served(str(_plan(shapes.planned(shapes.mixtral(), "fp8_block"), tmp_path)))
    stacks = [gemm for gemm in served.gemms if gemm.shape.experts]
    assert {(g.shape.experts, g.shape.in_features, g.shape.out_features) for g in stacks} == {
        (4, 256, 1024),
        (4, 512, 256),
    }
    assert {gemm.own for gemm in stacks} == {"fp8_block"}
    assert any("8 are taken" in sentence for sentence in served.left_out)


def test_the_shapes_of_a_plan_tell_its_cache(tmp_path: Path) -> None:
    plan = plans.plan_of(shapes.planned(shapes.llama(), "fp8_tensor"))
    caches = [
        {"layer": i, "attention": f"model.layers.{i}.self_attn", "name": f"cache {i}",
         "precision": precision}
        for i, precision in enumerate(("fp8", "bf16"))
    ]  # fmt: skip
    data = json.loads(plan.model_dump_json()) | {"kv_cache": caches}
    path = plans.write(plan.model_validate(data), tmp_path / "plan.json")
    served = read_served(str(path))
    assert [layer.own for layer in served.attention] == ["fp8", "bf16"]
    assert served.kv_bytes_per_token("bf16") == 2 * 2 * 256 * 2
    assert served.kv_bytes_per_token(None) == 2 * 256 * (1 + 2)


def _plan(model: Model, folder: Path) -> Path:
    path = folder / "plan.json"
    write_plan(plans.plan_of(model), {}, path)
    return path


def _refused(reference: object, model: str | None = None) -> Fp8scopeError:
    with pytest.raises(Fp8scopeError) as refusal:
        read_served(str(reference), model)
    assert refusal.value.remedy
    assert "\n" not in str(refusal.value)
    return refusal.value


def test_of_a_hub_id_config_and_headers_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.write(tmp_path / "model", SMALL)

    def fetched(name: str) -> tuple[dict[str, Any], Inventory]:
        assert name == "org/small"
        return SMALL, read_inventory(folder)

    monkeypatch.setattr(reading, "read_remote", fetched)
    remote, local = read_served("org/small"), read_served(str(folder))
    assert remote.name == "org/small"
    assert (remote.gemms, remote.attention) == (local.gemms, local.attention)


def test_refusals(tmp_path: Path) -> None:
    assert isinstance(_refused(tmp_path / "nothing"), BadInput)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no config.json" in _refused(empty).what
    (empty / "config.json").write_text(json.dumps(SMALL))
    alone = _refused(empty)
    assert isinstance(alone, BadModel)
    assert "config.json alone does not tell every layer's shape" in alone.what
    assert "headers are enough" in alone.remedy
    (empty / "config.json").write_text("[]")
    assert "not a JSON object" in _refused(empty).what
    model = models.write(tmp_path / "model", SMALL)
    assert "leave out --model" in _refused(model, "other/model").remedy
    assert "no plan" in _refused(model / "config.json").what


@pytest.mark.parametrize("kept", [0, 1000])
def test_a_file_that_is_cut_off_behind_its_header_is_enough(tmp_path: Path, kept: int) -> None:
    folder = models.write(tmp_path / "model", SMALL)
    whole = read_served(str(folder))
    path = folder / "model.safetensors"
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    os.truncate(path, header + kept)
    assert read_served(str(folder)) == whole
    with pytest.raises(BadModel, match="truncated"):
        read_inventory(folder)  # for whom weights are to be read
    os.truncate(path, header - 1)
    refusal = _refused(folder)
    assert "ends inside its header" in refusal.what
    assert "headers are enough" in refusal.remedy


def test_a_file_that_is_longer_than_its_header_says(tmp_path: Path) -> None:
    folder = models.write(tmp_path / "model", SMALL)
    whole = read_served(str(folder))
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")
    assert read_served(str(folder)) == whole


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    """Its layers are not known; a shard that is only its header is."""
    folder = models.write(tmp_path / "model", SMALL)
    whole = read_served(str(folder))
    names = read_inventory(folder).shapes()
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    (folder / "model.safetensors").rename(folder / first)
    weight_map = dict.fromkeys(names, first) | {"model.extra.weight": second}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    refusal = _refused(folder)
    assert f"names the shard {second}, which is missing" in refusal.what
    assert "headers are enough, of every shard" in refusal.remedy
    assert "hub id (org/name)" in refusal.remedy
    row = {"model.extra.weight": {"dtype": "BF16", "shape": [256], "data_offsets": [0, 512]}}
    text = json.dumps(row).encode()
    (folder / second).write_bytes(len(text).to_bytes(8, "little") + text)
    assert read_served(str(folder)).others == whole.others + 256


def test_pickles_are_refused(tmp_path: Path) -> None:
    folder = models.write(tmp_path / "model", SMALL)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refusal = _refused(folder)
    assert "only pickles" in refusal.what
    assert "--allow-pickle" not in refusal.remedy  # which this verb does not have


def test_a_config_without_heads_is_refused(tmp_path: Path) -> None:
    config = {key: value for key, value in SMALL.items() if key != "num_attention_heads"}
    folder = models.write(tmp_path / "model", config, dict(models.llama(SMALL)))
    assert "how many layers and heads" in _refused(folder).what


@pytest.mark.parametrize("said", ["x", [2], -1, True, None])
def test_experts_per_token_that_are_no_number_are_not_said(serve: Serve, said: object) -> None:
    config = models.MIXTRAL | SMALL | {"num_local_experts": 4, "num_experts_per_tok": said}
    assert serve(config).experts_per_token == 8


def test_a_part_for_text_that_is_none(serve: Serve) -> None:
    assert serve(SMALL | {"text_config": "x"}).experts_per_token == 8


def test_more_layers_than_any_model_has(tmp_path: Path) -> None:
    tensors = dict(models.llama(SMALL))
    folder = models.write(tmp_path / "model", SMALL | {"num_hidden_layers": 10**12}, tensors)
    assert "1,000,000,000,000 layers" in _refused(folder).what


def test_other_quantizations_are_refused(tmp_path: Path) -> None:
    packed = {
        name: ("U8" if "proj" in name else dtype, shape)
        for name, (dtype, shape) in models.llama(SMALL)
    }
    refusal = _refused(models.write(tmp_path / "model", SMALL, packed))
    assert "holds weights in U8" in refusal.what


def test_a_plan_of_another_model_is_refused(tmp_path: Path) -> None:
    path = _plan(shapes.planned(shapes.llama(), "fp8_tensor"), tmp_path)
    other = models.write(tmp_path / "model", SMALL | {"intermediate_size": 1024})
    refusal = _refused(path, str(other))
    assert isinstance(refusal, Stale)
    assert "(256, 1024) in the files and (256, 512) in the plan" in refusal.what
