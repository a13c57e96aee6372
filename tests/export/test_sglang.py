"""What `export --to sglang` writes, and what our model of SGLang makes of it."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import CannotExpress
from fp8scope.export.consumers import sglang
from fp8scope.export.consumers.sglang import CONSUMER, VARIABLE, write
from fp8scope.export.proof import Proof, prove
from tests.export.engine_shapes import deepseek, llama, mixtral, phi3, read, wanting


def proof(model: Model) -> Proof:
    return prove(read(CONSUMER, "sglang", write(model).config, model))


KEPT = ("layers.1.self_attn.q_proj", "layers.1.self_attn.k_proj", "layers.1.self_attn.v_proj")


@pytest.mark.parametrize(
    "model",
    [
        wanting(llama(), "fp8_token"),
        wanting(llama(), "fp8_token", [".1.mlp.down_proj", *KEPT]),
        wanting(llama(), "bf16"),
        wanting(phi3(), "fp8_token", [".0.self_attn.qkv_proj"]),
        wanting(
            mixtral(), "fp8_token", [f".experts.{n}.w{w}" for n in range(3) for w in (1, 2, 3)]
        ),
        wanting(llama(2, "model.language_model.", "Qwen2_5_VLForConditionalGeneration"), "bf16"),
        wanting(
            llama(2, "model.language_model.", "Qwen3VLForConditionalGeneration"),
            "fp8_token",
            [".1.mlp.down_proj"],
        ),
        wanting(llama(2, "model.language_model.", "LlavaForConditionalGeneration"), "fp8_token"),
        llama(2),  # nobody said: BF16
        wanting(
            deepseek(), "fp8_token", [".0.self_attn.q_a_proj", ".0.self_attn.kv_a_proj_with_mqa"]
        ),
    ],
)
def test_read_back_it_is_what_was_wanted(model: Model) -> None:
    found = proof(model)
    assert found.faults == ()
    wanted = {m.name: m.wanted or "bf16" for m in model.modules}
    runs = {m.name: row.outcome.treatment for row in found.rows for m in row.layer.modules}
    assert runs == wanted


def test_the_script_exports_the_list_and_starts_the_server() -> None:
    model = wanting(llama(), "fp8_token", [".1.mlp.down_proj", *KEPT])
    document = write(model)
    assert document.kind == "online config"
    form = document.forms["shell"]
    assert form.suffix == ".sh"
    lines = form.text.splitlines()
    assert lines[:2] == [
        "#!/bin/sh",
        "# SGLang, an online config: the engine quantizes a BF16 checkpoint while loading it",
    ]
    export, launch = (shlex.split(line) for line in lines[-2:])
    listed = ["q_proj", "k_proj", "v_proj"]
    names = [f"model.layers.1.self_attn.{n}" for n in listed]
    assert (
        export[1] == f"{VARIABLE}={','.join([*names, 'model.layers.1.mlp.down_proj', 'lm_head'])}"
    )
    assert launch[:3] == ["python", "-m", "sglang.launch_server"]
    assert launch[3:] == ["--model-path", "llama", "--quantization", "fp8"]
    assert document.use == ("sh FILE.sh",)


@pytest.mark.parametrize(
    ("treatment", "nearest"),
    [
        ("fp8_tensor", "--to hf-quant-config"),
        ("fp8_block", "--to compressed-tensors"),
        ("fp8_tensor_dynamic", "--to compressed-tensors"),
    ],
)
def test_what_it_cannot_make_names_the_nearest(treatment: Treatment, nearest: str) -> None:
    with pytest.raises(CannotExpress) as error:
        write(wanting(llama(), treatment))
    assert "model.layers.0.self_attn.qkv_proj" in error.value.what
    assert nearest in error.value.remedy


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (wanting(mixtral(), "fp8_token"), "of model.layers.0.block_sparse_moe.experts"),
        (
            wanting(llama(), "fp8_token", [".1.self_attn.q_proj"]),
            "model.layers.1.self_attn.qkv_proj is one layer in SGLang",
        ),
        (llama(1).with_wanted(lambda m: "fp8_token"), "does not quantize lm_head"),
        (replace(wanting(llama(), "fp8_token"), kv_cache="mixed"), "scales of an FP8 KV cache"),
    ],
)
def test_refusals(model: Model, says: str) -> None:
    with pytest.raises(CannotExpress) as error:
        write(model)
    assert says in error.value.what
    assert error.value.remedy


def test_a_list_that_no_variable_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang, "_LONGEST", 100)
    with pytest.raises(CannotExpress) as error:
        write(wanting(llama(), "fp8_token", [".mlp.down_proj"]))
    assert f"{VARIABLE} would be 383 bytes, Linux takes 100" in error.value.what
