"""What `export --to trtllm` writes, and what our model of TensorRT-LLM makes of it."""

from __future__ import annotations

import ast
import shlex
from dataclasses import replace

import pytest
import yaml

from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import CannotExpress
from fp8scope.export.consumers.trtllm import CONSUMER, write
from fp8scope.export.proof import prove
from tests.export.engine_shapes import llama, mixtral, phi3, read, wanting

QKV1 = tuple(f".1.self_attn.{n}_proj" for n in "qkv")
EXPERTS = tuple(f".experts.{n}.w{w}" for n in range(3) for w in (1, 2, 3))


@pytest.mark.parametrize("version", CONSUMER.versions)
@pytest.mark.parametrize(
    "model",
    [
        wanting(llama(), "fp8_tensor"),
        wanting(llama(), "fp8_tensor", [".1.mlp.down_proj", *QKV1]),
        wanting(llama(), "fp8_token", [".10.mlp.gate_proj", ".10.mlp.up_proj"]),
        wanting(llama(), "fp8_block", [".1.self_attn.o_proj"]),
        wanting(llama(), "bf16"),
        llama(2),  # nobody said: BF16
        wanting(phi3(), "fp8_token", [".0.self_attn.qkv_proj"]),
        wanting(mixtral(), "fp8_tensor"),
        wanting(mixtral(), "fp8_token", EXPERTS),
        wanting(llama(2, "model.language_model."), "fp8_tensor", [".1.mlp.down_proj"]),
    ],
)
def test_read_back_it_is_what_was_wanted(model: Model, version: str) -> None:
    reading = read(CONSUMER, "trtllm", write(model).config, model, version)
    for layer in reading.layers:
        wanted = {module.wanted or "bf16" for module in layer.modules}
        assert {reading.outcome(layer).treatment} == wanted, layer.name
        assert reading.outcome(layer).note == ""
    assert prove(reading).faults == ()


def test_the_yaml_holds_options_that_exist_and_says_where_the_list_is() -> None:
    model = replace(wanting(llama(), "fp8_tensor"), kv_cache="fp8", folded=True)
    form = write(model).forms["yaml"]
    assert form.suffix == ".yaml"
    assert yaml.safe_load(form.text) == {"kv_cache_config": {"dtype": "fp8"}}
    assert form.text.splitlines()[:3] == [
        "# TensorRT-LLM, metadata of a finished checkpoint: it must describe the weights beside it",
        "# smoothing must be folded into the weights before they are quantized",
        "# which layers stay in BF16 is read from the checkpoint's hf_quant_config.json and from",
    ]
    plain = write(wanting(llama(), "fp8_token")).forms["yaml"].text
    assert yaml.safe_load(plain) == {"kv_cache_config": {"dtype": "auto"}}


def test_the_python_names_every_shard() -> None:
    model = replace(wanting(llama(2), "fp8_tensor", QKV1), kv_cache="fp8")
    document = write(model)
    tree = ast.parse(document.forms["python"].text)
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "QuantConfig"
    )
    said = {str(each.arg): each.value for each in call.keywords}
    assert ast.unparse(said["quant_algo"]) == "QuantAlgo.FP8"
    assert ast.unparse(said["kv_cache_quant_algo"]) == "QuantAlgo.FP8"
    kept = [*(f"model.layers.1.self_attn.{n}_proj" for n in "qkv"), "lm_head"]
    assert ast.literal_eval(said["exclude_modules"]) == kept
    assert document.config["quant_config"]["exclude_modules"] == kept
    assert "takes hf_quant_config.json" in document.forms["python"].text


def test_experts_are_named_as_one() -> None:
    config = write(wanting(mixtral(), "fp8_token", EXPERTS)).config
    assert config["quant_config"]["exclude_modules"] == [
        "model.layers.0.block_sparse_moe.gate",
        "model.layers.0.block_sparse_moe.experts",
        "model.layers.1.block_sparse_moe.gate",
        "model.layers.1.block_sparse_moe.experts",
        "lm_head",
    ]


def test_the_build_line_is_only_for_fp8_per_tensor_and_says_its_end() -> None:
    form = write(wanting(llama(), "fp8_tensor")).forms["trtllm-build"]
    assert form.suffix == ".sh"
    assert "# only up to 1.2: the TensorRT backend was removed after it\n" in form.text
    line = shlex.split(form.text.splitlines()[-1])
    assert line[:3] == ["trtllm-build", "--checkpoint_dir", "CHECKPOINT"]
    assert line[-2:] == ["--gemm_plugin", "fp8"]
    assert list(write(wanting(llama(), "fp8_token")).forms) == ["yaml", "python"]


def some(model: Model, treatment: Treatment, end: str) -> Model:
    return model.with_wanted(lambda m: treatment if m.name.endswith(end) else m.wanted)


@pytest.mark.parametrize(
    ("model", "says", "nearest"),
    [
        (
            some(wanting(llama(), "fp8_tensor"), "fp8_token", "down_proj"),
            "wanted are FP8 per tensor, static and FP8 per token",
            "--to hf-quant-config",
        ),
        (wanting(llama(), "fp8_tensor_dynamic"), "dynamic input scales", "--to hf-quant-config"),
        (wanting(mixtral(), "fp8_token"), "block_sparse_moe.experts", "--to hf-quant-config"),
        (
            wanting(llama(), "fp8_tensor", QKV1[:1]),
            "model.layers.1.self_attn.qkv_proj is one layer in TensorRT-LLM",
            "the same precision",
        ),
        (some(llama(1), "fp8_tensor", "lm_head"), "does not quantize lm_head", "BF16"),
        (some(mixtral(), "fp8_tensor", ".gate"), "does not quantize model.layers.0", "BF16"),
        (
            replace(wanting(llama(), "fp8_tensor"), kv_cache="mixed"),
            "one precision for the KV cache",
            "all or none",
        ),
    ],
)
def test_refusals_name_the_nearest(model: Model, says: str, nearest: str) -> None:
    with pytest.raises(CannotExpress) as error:
        write(model)
    assert says in error.value.what
    assert nearest in error.value.remedy
