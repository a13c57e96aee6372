"""No false alarm: checkpoints of real producers, and what else people do that engines load."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fp8scope.checkpoint.doctor.diagnosis import Diagnosis
from fp8scope.checkpoint.doctor.examine import examine
from tests.checkpoint.doctor.zoo.corruptions import planned
from tests.checkpoint.doctor.zoo.editing import CHECKPOINTS, NAMES, Checkpoint, copy, plain

LEFT_OUT = "tokenizer-missing"  # from all of them, to keep them small
ALLOWED = {  # warnings that are true, and why
    "torchao-per-row": {"quant-method-unknown"},  # a layout that is not read, and is said to be
}


def _said(found: Diagnosis) -> set[str]:
    return {fault.code for fault in found.faults} - {LEFT_OUT}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_producer_saved_raises_no_alarm(name: str) -> None:
    found = examine(CHECKPOINTS / name)
    assert found.healthy, found.errors
    assert _said(found) == ALLOWED.get(name, set()), found.warnings


LINEARS = {
    "autofp8-static-kv": {"fp8_tensor": 14, "bf16": 1},
    "compressed-tensors-groups": {"fp8_tensor": 8, "fp8_token": 3, "bf16": 4},
    "deepseek-v3-block": {"fp8_block": 14, "bf16": 2},
    "fbgemm": {"fp8_token": 3, "bf16": 5},
    "llm-compressor-block": {"fp8_block": 7, "bf16": 1},
    "llm-compressor-mixtral": {"fp8_token": 16, "bf16": 2},
    "modelopt-block": {"fp8_block": 3, "bf16": 4},
    "modelopt-mixed": {"fp8_tensor": 7, "fp8_token": 3, "bf16": 5},
    "modelopt-phi3": {"fp8_tensor": 4, "bf16": 1},
}


@pytest.mark.parametrize("name", LINEARS)
def test_linears_are_counted_by_what_they_are_stored_in(name: str) -> None:
    found = {k: v for k, v in examine(CHECKPOINTS / name).linears.items() if v}
    assert found == LINEARS[name]


@dataclass(frozen=True)
class Variant:
    """Another way to say or store the same; `allowed` are warnings that are true."""

    what: str
    fixture: str
    change: Callable[[Checkpoint], Any]
    allowed: frozenset[str] = frozenset()


def _shard(checkpoint: Checkpoint) -> None:
    checkpoint.shard()


def _norms_listed(checkpoint: Checkpoint) -> None:
    """As in Qwen's own FP8 models."""
    layer = "model.layers.0"
    norms = [f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm"]
    checkpoint.said["modules_to_not_convert"] = ["lm_head", *norms]
    checkpoint.save()


def _next_token_layer(checkpoint: Checkpoint) -> None:
    """DeepSeek's layer of multi-token prediction, whose own matrices are BF16 and on no list."""
    layer, hidden = "model.layers.1", 64
    matrix = np.linspace(-0.1, 0.1, 32 * hidden).reshape(32, hidden)
    checkpoint.tensors |= {
        f"{layer}.embed_tokens.weight": plain(matrix),
        f"{layer}.shared_head.head.weight": plain(matrix),
        f"{layer}.eh_proj.weight": plain(np.full((hidden, 2 * hidden), 0.05)),
        f"{layer}.enorm.weight": plain(np.ones(hidden)),
        f"{layer}.hnorm.weight": plain(np.ones(hidden)),
        f"{layer}.shared_head.norm.weight": plain(np.ones(hidden)),
    }
    for name in checkpoint.ending(".weight", ".weight_scale_inv", ".bias"):
        if name.startswith("model.layers.0."):
            tensor = checkpoint.tensors[name]
            checkpoint.tensors.setdefault(name.replace("layers.0", "layers.1"), tensor)
    checkpoint.config["num_nextn_predict_layers"] = 1
    checkpoint.save()


def _one_scale_for_keys_and_values(checkpoint: Checkpoint) -> None:
    """AutoFP8's first form."""
    checkpoint.drop("v_proj.output_scale")
    for name in checkpoint.ending("k_proj.output_scale"):
        new = name.replace("k_proj.output_scale", "kv_scale")
        checkpoint.tensors[new] = checkpoint.tensors.pop(name)
    checkpoint.save()


def _dynamic(checkpoint: Checkpoint) -> None:
    checkpoint.drop(".input_scale")
    checkpoint.said["activation_scheme"] = "dynamic"
    checkpoint.save()


def _static_as_transformers_has_it(checkpoint: Checkpoint) -> None:
    """As in Mistral's FP8 models."""
    checkpoint.rename(".weight_scale", ".weight_scale_inv")
    checkpoint.rename(".input_scale", ".activation_scale")
    checkpoint.drop(".output_scale")
    checkpoint.config["quantization_config"] = {
        "activation_scheme": "static",
        "dequantize": False,
        "modules_to_not_convert": ["model.vision_tower", "lm_head"],
        "quant_method": "fp8",
        "weight_block_size": None,
    }
    checkpoint.save()


def _metadata_beside_only(checkpoint: Checkpoint) -> None:
    """As ModelOpt wrote it at first, with scales of shape [1]."""
    del checkpoint.config["quantization_config"]
    for name in checkpoint.ending("k_scale", "v_scale"):
        checkpoint.tensors[name].shape = (1,)
    checkpoint.save()


def _metadata_in_config_only(checkpoint: Checkpoint) -> None:
    checkpoint.quant = None
    (checkpoint.folder / "hf_quant_config.json").unlink()
    checkpoint.save()


def _expressions(checkpoint: Checkpoint) -> None:
    checkpoint.said["ignore"] = ["re:.*lm_head", r"re:.*layers\.0\.mlp\.down_proj$"]
    checkpoint.save()


def _multimodal(checkpoint: Checkpoint) -> None:
    """The language model inside a wrapper, beside a tower in BF16 that an expression spares."""
    for name in [n for n in checkpoint.tensors if n.startswith("model.")]:
        new = name.replace("model.", "model.language_model.", 1)
        checkpoint.tensors[new] = checkpoint.tensors.pop(name)
    block = "model.visual.blocks.0"
    checkpoint.tensors |= {
        f"{block}.attn.qkv.weight": plain(np.full((96, 32), 0.05)),
        f"{block}.attn.proj.weight": plain(np.full((32, 32), 0.05)),
        "model.visual.patch_embed.proj.weight": plain(np.full((32, 3, 2, 4, 4), 0.05)),
    }
    down = "model.language_model.layers.0.mlp.down_proj"
    checkpoint.said["ignore"] = ["re:.*visual.*", down, "lm_head"]
    text = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    checkpoint.config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "text_config": text,
        "quantization_config": checkpoint.said,
    }
    checkpoint.save()


def _rotary(checkpoint: Checkpoint) -> None:
    """A buffer that old versions of transformers saved."""
    inverse = plain(np.linspace(1, 0.001, 8))
    checkpoint.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = inverse
    checkpoint.save()


def _single_values(checkpoint: Checkpoint) -> None:
    for name in checkpoint.ending("_scale"):
        checkpoint.tensors[name].shape = (1,)
    checkpoint.save()


def _powers_of_two(checkpoint: Checkpoint) -> None:
    """DeepSeek-V3.1's `ue8m0`: as F32, and as exponents alone."""
    for name in checkpoint.ending("weight_scale_inv"):
        tensor = checkpoint.tensors[name]
        exponents = np.ceil(np.log2(tensor.floats))
        tensor.floats = np.exp2(exponents)
        if ".experts.0." in name:
            tensor.dtype, tensor.data = "F8_E8M0", (exponents + 127).astype(np.uint8).tobytes()
    checkpoint.said["scale_fmt"] = "ue8m0"
    checkpoint.save()


def _planned(checkpoint: Checkpoint) -> None:
    plan = planned(checkpoint)
    checkpoint.save()
    (checkpoint.folder / "plan.json").write_text(json.dumps(plan))


ONE_FILE = frozenset({"metadata-one-file"})
PLANNABLE = ("autofp8-static-kv", "fbgemm", "llm-compressor-block", "modelopt-mixed")
VARIANTS = (
    *(Variant("in two shards", name, _shard) for name in NAMES[::3]),
    *(Variant("its plan beside it", name, _planned) for name in PLANNABLE),
    Variant("scales are powers of two", "deepseek-v3-block", _powers_of_two),
    Variant("norms on the list", "transformers-block", _norms_listed),
    Variant("a layer of multi-token prediction", "deepseek-v3-block", _next_token_layer),
    Variant("kv_scale", "autofp8-static-kv", _one_scale_for_keys_and_values),
    Variant("dynamic", "autofp8-static-kv", _dynamic),
    Variant("scales of shape [1]", "autofp8-static-kv", _single_values),
    # true: there is no such tower here
    Variant(
        "transformers' names",
        "autofp8-static-kv",
        _static_as_transformers_has_it,
        frozenset({"list-entry-dead"}),
    ),
    # true: what is in one file only, TensorRT-LLM or transformers does not find
    Variant("as of old", "modelopt-fp8-kv", _metadata_beside_only, ONE_FILE),
    Variant("config.json alone", "modelopt-mixed", _metadata_in_config_only, ONE_FILE),
    Variant("expressions", "llm-compressor-static", _expressions),
    Variant("a multimodal model", "llm-compressor-static", _multimodal),
    Variant("an old buffer", "fbgemm", _rotary),
)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.fixture}: {v.what}")
def test_other_ways_to_say_the_same_raise_no_alarm(variant: Variant, tmp_path: Path) -> None:
    checkpoint = copy(variant.fixture, tmp_path)
    variant.change(checkpoint)
    found = examine(checkpoint.folder)
    assert found.healthy, found.errors
    allowed = ALLOWED.get(variant.fixture, frozenset()) | variant.allowed
    assert _said(found) <= allowed, found.warnings


def _halved(checkpoint: Checkpoint) -> None:
    checkpoint.scale(lambda scale: scale / 2, ".weight_scale")
    checkpoint.save()


def _of_another_model(checkpoint: Checkpoint) -> None:
    up, gate = (checkpoint.tensors[f"model.layers.0.mlp.{part}_proj.weight"] for part in GATED)
    up.data, gate.data = gate.data, up.data
    checkpoint.save()


GATED = ("up", "gate")


@pytest.mark.parametrize("change", [_halved, _of_another_model])
def test_what_files_alone_cannot_show(change: Callable[[Checkpoint], Any], tmp_path: Path) -> None:
    """Every scale halved, or codes of another matrix: only a run of the model tells."""
    checkpoint = copy("autofp8-static-kv", tmp_path)
    change(checkpoint)
    assert examine(checkpoint.folder).healthy
