"""What `export --to vllm` writes, and what our model of vLLM makes of it."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from fp8scope.core.modules import Model, Module, Treatment
from fp8scope.export.consumer import CannotExpress
from fp8scope.export.consumers import compressed_tensors, hf_quant_config, vllm
from fp8scope.export.consumers.vllm import CONSUMER, write
from fp8scope.export.proof import prove
from tests.export.engine_shapes import llama, mixtral, phi3, read, wanting

QKV = tuple(f".1.self_attn.{n}_proj" for n in "qkv")
EXPERTS = tuple(f".1.block_sparse_moe.experts.{n}.w{w}" for n in range(3) for w in (1, 2, 3))


def of_three_kinds(model: Model) -> Model:
    """Attention per channel, MLPs per block, routed experts per tensor."""

    def choose(module: Module) -> Treatment:
        if module.kind in {"lm_head", "router"}:
            return "bf16"
        if module.kind == "expert":
            return "fp8_tensor_dynamic"
        return "fp8_token" if "self_attn" in module.name else "fp8_block"

    return model.with_wanted(choose)


@pytest.mark.parametrize(
    "model",
    [
        wanting(llama(), "fp8_token"),
        wanting(llama(), "fp8_block", [".1.mlp.down_proj", *QKV]),
        wanting(llama(), "bf16"),
        wanting(phi3(), "fp8_token", [".0.self_attn.qkv_proj"]),
        wanting(mixtral(), "fp8_token", EXPERTS),
        of_three_kinds(llama(24)),
        of_three_kinds(mixtral()),
        of_three_kinds(llama(2, architecture="Qwen3MoeForCausalLM")),
        wanting(llama(2, "model.language_model.", "LlavaForConditionalGeneration"), "fp8_token"),
        wanting(
            llama(2, "model.language_model.", "Qwen2_5_VLForConditionalGeneration"),
            "fp8_token",
            [".1.mlp.down_proj"],
        ),
        llama(2),  # nobody said: BF16
    ],
)
def test_read_back_it_is_what_was_wanted(model: Model) -> None:
    proof = prove(read(CONSUMER, "vllm", write(model).config, model))
    assert proof.faults == ()
    assert {row.outcome.treatment for row in proof.rows} == (model.wanted() or {"bf16"})
    assert [row.outcome.treatment for row in proof.rows] == [
        row.layer.modules[0].wanted or "bf16" for row in proof.rows
    ]


def test_fused_layers_are_named_as_vllm_builds_them() -> None:
    model = wanting(llama(2), "fp8_token", [".1.mlp.down_proj", *QKV])
    assert write(model).config == {
        "targets": {
            "model.layers.0.self_attn.qkv_proj": "fp8_per_channel",
            "model.layers.0.self_attn.o_proj": "fp8_per_channel",
            "model.layers.0.mlp.gate_up_proj": "fp8_per_channel",
            "model.layers.0.mlp.down_proj": "fp8_per_channel",
            "model.layers.1.self_attn.o_proj": "fp8_per_channel",
            "model.layers.1.mlp.gate_up_proj": "fp8_per_channel",
        },
        "ignore": [],
    }


def test_experts_are_one_target_and_prefixes_are_vllms() -> None:
    targets = write(wanting(mixtral(), "fp8_block", EXPERTS)).config["targets"]
    assert [name for name in targets if "experts" in name] == [
        "model.layers.0.block_sparse_moe.experts"
    ]
    llava = llama(1, "model.language_model.", "LlavaForConditionalGeneration")
    targets = write(wanting(llava, "fp8_token")).config["targets"]
    assert list(targets) == [
        f"language_model.model.layers.0.{part}"
        for part in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    ]


def test_both_forms_hold_the_same() -> None:
    document = write(replace(of_three_kinds(llama()), name="org/a model"))
    assert document.kind == "online config"
    assert [(name, form.suffix) for name, form in document.forms.items()] == [
        ("json", ".json"),
        ("shell", ".sh"),
    ]
    assert json.loads(document.forms["json"].text) == document.config
    first, says, command = document.forms["shell"].text.splitlines()
    assert first == "#!/bin/sh"
    assert says == (
        "# vLLM, an online config: the engine quantizes a BF16 checkpoint while loading it"
    )
    words = shlex.split(command)
    assert words[:5] == ["vllm", "serve", "org/a model", "--quantization", "online"]
    assert words[5] == "--quantization-config"
    assert json.loads(words[6]) == document.config
    assert len(words) == 7
    assert len(document.config["targets"]) == 48


def test_what_is_pasted_takes_the_json_file() -> None:
    (line,) = write(wanting(llama(1), "fp8_token")).use
    assert line == (
        'vllm serve llama --quantization online --quantization-config "$(cat FILE.json)"'
    )


@pytest.mark.parametrize(
    ("model", "says", "nearest"),
    [
        (wanting(llama(), "fp8_tensor"), "should have a static scale", "--to hf-quant-config"),
        (wanting(llama(), "fp8_tensor"), "0.self_attn.qkv_proj", "--candidates fp8_token,fp8_bl"),
        (wanting(llama(), "other"), "another quantization", "build a checkpoint"),
        (
            wanting(llama(), "fp8_token", [".1.self_attn.q_proj"]),
            "model.layers.1.self_attn.qkv_proj is one layer in vLLM, wanted in BF16 and FP8",
            "the same precision",
        ),
        (
            wanting(mixtral(), "fp8_token", [".experts.1.w1"]),
            "model.layers.0.block_sparse_moe.experts is one layer in vLLM",
            "the same precision",
        ),
        (llama(1).with_wanted(lambda m: "fp8_token"), "not quantize lm_head online", "BF16"),
        (
            mixtral().with_wanted(lambda m: "bf16" if m.kind == "lm_head" else "fp8_token"),
            "would run model.layers.0.block_sparse_moe.gate in BF16, not in FP8 per token",
            "build a checkpoint",
        ),
        (replace(wanting(llama(), "fp8_token"), folded=True), "the plan smooths", "build a chec"),
        (
            replace(wanting(llama(), "fp8_token"), kv_cache="fp8"),
            "scales of an FP8 KV cache",
            "in BF16",
        ),
        (
            replace(wanting(llama(), "fp8_token"), kv_cache="mixed"),
            "scales of an FP8 KV cache",
            "in BF16",
        ),
        (
            wanting(llama(1, architecture="NobodysForCausalLM"), "fp8_token"),
            "vLLM 0.33.0 has no NobodysForCausalLM",
            "--to compressed-tensors",
        ),
    ],
)
def test_refusals_name_the_nearest(model: Model, says: str, nearest: str) -> None:
    with pytest.raises(CannotExpress) as error:
        write(model)
    assert says in error.value.what
    assert nearest in error.value.remedy


def test_a_config_that_no_command_line_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "_LONGEST", 100)
    with pytest.raises(CannotExpress) as error:
        write(wanting(llama(1), "fp8_token"))
    assert "--quantization-config would be 232 bytes, Linux takes 100" in error.value.what


@pytest.mark.parametrize("treatment", ["fp8_tensor", "fp8_token", "fp8_block"])
@pytest.mark.parametrize(
    "shape",
    [
        llama(12),
        phi3(),
        mixtral(),
        llama(2, "model.language_model.", "LlavaForConditionalGeneration"),
    ],
)
def test_lists_of_checkpoints_do_what_was_wanted(shape: Model, treatment: Treatment) -> None:
    model = wanting(shape, treatment, [".1.mlp.down_proj", *QKV, *EXPERTS])
    proof = prove(
        read(CONSUMER, "compressed-tensors", compressed_tensors.write(model).config, model)
    )
    assert (proof.faults, proof.differences) == ((), ())
    if shape.architecture == "MixtralForCausalLM" and treatment == "fp8_token":
        with pytest.raises(CannotExpress, match="no engine reads experts per token"):
            hf_quant_config.write(model)
        return
    proof = prove(read(CONSUMER, "hf-quant-config", hf_quant_config.write(model).config, model))
    assert (proof.faults, proof.differences) == ((), ())
    assert len(proof.faults) == len(proof.differences)


def test_mixes_of_a_checkpoint_do_what_was_wanted() -> None:
    model = of_three_kinds(llama(12))
    for form, writer in (
        ("compressed-tensors", compressed_tensors),
        ("hf-quant-config", hf_quant_config),
    ):
        proof = prove(read(CONSUMER, form, writer.write(model).config, model))
        assert proof.holds
        assert {row.outcome.treatment for row in proof.rows} == {"bf16", "fp8_token", "fp8_block"}
        assert len(proof.rows) == 49
