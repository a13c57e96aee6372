"""Models as their makers publish them: names, lists and settings theirs, matrices of a toy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fp8scope.checkpoint.doctor.examine import examine
from fp8scope.errors import BadInput
from tests.checkpoint.doctor import checkpoints
from tests.checkpoint.doctor.checkpoints import Checkpoint
from tests.checkpoint.doctor.finding import shown

Quantize = Callable[[str, Tensor], dict[str, Tensor]]
SIDE = 64
_FLOAT: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True}
_DYNAMIC = {
    "targets": ["Linear"],
    "weights": {**_FLOAT, "strategy": "channel", "dynamic": False},
    "input_activations": {**_FLOAT, "strategy": "token", "dynamic": True},
}


def static(name: str, weight: Tensor) -> dict[str, Tensor]:
    return checkpoints.quantized(name, weight)


def channels(name: str, weight: Tensor) -> dict[str, Tensor]:
    return checkpoints.per_channel(name, weight)


def blocks(name: str, weight: Tensor) -> dict[str, Tensor]:
    return checkpoints.blocks(name, weight.repeat(4, 4))


@dataclass
class Published:
    """What is in FP8, what is not, and other tensors, by name; all of config.json."""

    quantize: Quantize
    fp8: list[str]
    plain: list[str]
    config: dict[str, Any]
    others: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, Any] | None = None
    allowed: tuple[str, ...] = ()

    def write(self, folder: Path) -> Path:
        torch.manual_seed(0)
        tensors: dict[str, Tensor] = {}
        for name in self.fp8:
            tensors |= self.quantize(name, torch.randn(SIDE, SIDE) * 0.05)
        for name in self.plain:
            tensors[f"{name}.weight"] = (torch.randn(SIDE, SIDE) * 0.05).bfloat16()
        whole = Checkpoint("modelopt", tensors | self.others, self.config, self.metadata)
        return whole.write(folder)


def under(*prefixes: str, of: Iterable[str]) -> list[str]:
    ends = list(of)
    return [f"{prefix}.{end}" for prefix in prefixes for end in ends]


QKVO = [f"self_attn.{part}_proj" for part in "qkvo"]
MLP = [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
LATENT = [f"self_attn.{part}" for part in (
    "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj",
)]  # fmt: skip


def experts(layer: str, count: int, parts: Iterable[str], at: str = "mlp") -> list[str]:
    return [f"{layer}.{at}.experts.{n}.{part}" for n in range(count) for part in parts]


def deepseek_v3() -> Published:
    """Three dense layers, then experts; a layer of multi-token prediction behind the last."""
    layers = [f"model.layers.{n}" for n in range(6)]
    fp8 = under(*layers, of=LATENT) + under(*layers[:3], of=MLP)
    for layer in layers[3:]:
        fp8 += experts(layer, 4, ("gate_proj", "up_proj", "down_proj"))
        fp8 += [f"{layer}.mlp.shared_experts.{p}_proj" for p in ("gate", "up", "down")]
    plain = ["model.embed_tokens", "lm_head", *(f"{layer}.mlp.gate" for layer in layers[3:])]
    plain += [f"{layers[5]}.{end}" for end in ("eh_proj", "shared_head.head", "embed_tokens")]
    others = {f"{layer}.mlp.gate.e_score_correction_bias": torch.ones(4) for layer in layers[3:]}
    others |= {f"{layers[5]}.{n}.weight": torch.ones(SIDE) for n in ("enorm", "hnorm")}
    config = {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
        "num_hidden_layers": 5, "n_routed_experts": 4, "num_nextn_predict_layers": 1,
        "kv_lora_rank": 16, "tie_word_embeddings": False,
        "quantization_config": {
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
            "weight_block_size": [128, 128],
        },
    }  # fmt: skip
    return Published(blocks, fp8, plain, config, others)


def qwen3_moe() -> Published:
    """Lists its norms and routers too."""
    layers = [f"model.layers.{n}" for n in range(3)]
    fp8 = under(*layers, of=QKVO)
    for layer in layers:
        fp8 += experts(layer, 4, ("gate_proj", "up_proj", "down_proj"))
    listed = ["lm_head", *under(*layers, of=("input_layernorm", "mlp.gate"))]
    others = {f"{layer}.input_layernorm.weight": torch.ones(SIDE) for layer in layers}
    config = {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
        "num_hidden_layers": 3, "num_experts": 4,
        "quantization_config": {
            "activation_scheme": "dynamic", "fmt": "e4m3", "modules_to_not_convert": listed,
            "quant_method": "fp8", "weight_block_size": [128, 128],
        },
    }  # fmt: skip
    plain = ["lm_head", *(f"{layer}.mlp.gate" for layer in layers)]
    return Published(blocks, fp8, plain, config, others)


def minimax_m2() -> Published:
    """Single parts of names in the list, one of a tensor that is no module."""
    layers = [f"model.layers.{n}" for n in range(2)]
    fp8 = under(*layers, of=QKVO)
    for layer in layers:
        fp8 += experts(layer, 4, ("w1", "w2", "w3"), "block_sparse_moe")
    moes = [f"{layer}.block_sparse_moe" for layer in layers]
    config = {
        "model_type": "minimax_m2", "num_hidden_layers": 2, "num_local_experts": 4,
        "quantization_config": {
            "activation_scheme": "dynamic", "fmt": "float8_e4m3fn", "quant_method": "fp8",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"],
        },
    }  # fmt: skip
    others = {f"{moe}.e_score_correction_bias": torch.ones(4) for moe in moes}
    return Published(blocks, fp8, ["lm_head", *(f"{moe}.gate" for moe in moes)], config, others)


def llama_405b_fbgemm() -> Published:
    """Attention and the first and last layer in BF16."""
    layers = [f"model.layers.{n}" for n in range(4)]
    plain = under(*layers, of=QKVO) + under(layers[0], layers[3], of=MLP)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 4,
        "quantization_config": {
            "activation_scale_ub": 1200.0, "quant_method": "fbgemm_fp8",
            "modules_to_not_convert": [*plain, "lm_head"],
        },
    }  # fmt: skip
    return Published(channels, under(*layers[1:3], of=MLP), [*plain, "lm_head"], config)


def mixtral_autofp8() -> Published:
    layers = [f"model.layers.{n}" for n in range(2)]
    fp8 = under(*layers, of=QKVO)
    for layer in layers:
        fp8 += experts(layer, 4, ("w1", "w2", "w3"), "block_sparse_moe")
    gates = [f"{layer}.block_sparse_moe.gate" for layer in layers]
    config = {
        "model_type": "mixtral", "num_hidden_layers": 2, "num_local_experts": 4,
        "quantization_config": {
            "activation_scheme": "static", "ignored_layers": [*gates, "lm_head"],
            "quant_method": "fp8",
        },
    }  # fmt: skip
    return Published(static, fp8, [*gates, "lm_head"], config)


def nvidia_llama() -> Published:
    """Metadata beside config.json alone, as until 2025; the KV cache in FP8."""
    layers = [f"model.layers.{n}" for n in range(2)]
    caches = {
        f"{layer}.self_attn.{x}_proj.{x}_scale": torch.tensor(0.02)
        for layer in layers
        for x in "kv"
    }
    said = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    config = {"model_type": "llama", "num_hidden_layers": 2}
    return Published(
        static, under(*layers, of=QKVO + MLP), ["lm_head"], config, caches,
        {"producer": {"name": "modelopt", "version": "0.15.1"}, "quantization": said},
        ("metadata-one-file",),
    )  # fmt: skip


def _tower(prefix: str, parts: Iterable[str]) -> list[str]:
    return under(*(f"{prefix}.{n}" for n in range(2)), of=parts)


def gemma3() -> Published:
    """Whole names of the tower in the list, and an output layer that is tied."""
    layers = [f"language_model.model.layers.{n}" for n in range(3)]
    tower = _tower(
        "vision_tower.vision_model.encoder.layers",
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj",
         "mlp.fc1", "mlp.fc2"],
    )  # fmt: skip
    config = {
        "model_type": "gemma3", "text_config": {"num_hidden_layers": 3, "sliding_window": 1024},
        "vision_config": {"num_hidden_layers": 27},
        "quantization_config": {
            "quant_method": "compressed-tensors", "format": "float-quantized",
            "config_groups": {"group_0": _DYNAMIC}, "ignore": [*tower, "language_model.lm_head"],
        },
    }  # fmt: skip
    others = {f"{layer}.input_layernorm.weight": torch.zeros(SIDE) for layer in layers}
    others["multi_modal_projector.mm_input_projection_weight"] = torch.ones(SIDE, SIDE)
    return Published(channels, under(*layers, of=QKVO + MLP), tower, config, others)


def qwen2_vl() -> Published:
    layers = [f"model.layers.{n}" for n in range(2)]
    tower = _tower("visual.blocks", ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"])
    tower += ["visual.merger.mlp.0", "visual.merger.mlp.2"]
    config = {
        "model_type": "qwen2_vl", "num_hidden_layers": 2, "vision_config": {"depth": 32},
        "quantization_config": {
            "quant_method": "compressed-tensors", "config_groups": {"group_0": _DYNAMIC},
            "ignore": ["re:.*lm_head", "re:visual.*"],
        },
    }  # fmt: skip
    return Published(channels, under(*layers, of=QKVO + MLP), [*tower, "lm_head"], config)


def llama4_modelopt() -> Published:
    """Experts in a stack, [experts, in, out], with one scale each."""
    layers = [f"language_model.model.layers.{n}" for n in range(2)]
    others: dict[str, Tensor] = {}
    for layer in layers:
        for part in ("gate_up_proj", "down_proj"):
            weight = torch.randn(4, SIDE, SIDE) * 0.05
            scale = weight.abs().amax((1, 2)) / 448
            at = f"{layer}.feed_forward.experts.{part}"
            others[at] = (weight / scale[:, None, None]).to(torch.float8_e4m3fn)
            others |= {f"{at}_weight_scale": scale, f"{at}_input_scale": torch.tensor(0.02)}
    tower = _tower("vision_model.model.layers", ["self_attn.q_proj", "self_attn.o_proj"])
    routers = [f"{layer}.feed_forward.router" for layer in layers]
    listed = ["language_model.lm_head", "vision_model*", "multi_modal_projector*", *routers]
    said = {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": listed}
    config = {
        "model_type": "llama4", "text_config": {"num_hidden_layers": 2, "num_local_experts": 4},
        "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": listed},
    }  # fmt: skip
    plain = [*tower, *routers, "language_model.lm_head", "multi_modal_projector.linear_1"]
    return Published(static, under(*layers, of=QKVO), plain, config, others, {"quantization": said})


def qwen3_next() -> Published:
    """Every fourth layer attends, the others are linear; a module that predicts more tokens."""
    mtp = "mtp.layers.0"
    fp8 = under("model.layers.1", "model.layers.3", mtp, of=QKVO)
    fp8 += under("model.layers.0", "model.layers.2", of=["linear_attn.in_proj_qkvz"])
    fp8 += under("model.layers.0", "model.layers.2", of=["linear_attn.out_proj"])
    layers = [f"model.layers.{n}" for n in range(4)]
    for layer in (*layers, mtp):
        fp8 += experts(layer, 4, ("gate_proj", "up_proj", "down_proj"))
    plain = ["lm_head", "mtp.fc", "model.layers.0.linear_attn.in_proj_ba"]
    plain += ["model.layers.2.linear_attn.in_proj_ba"]
    plain += under(*layers, mtp, of=["mlp.gate", "mlp.shared_expert_gate"])
    config = {
        "model_type": "qwen3_next", "num_hidden_layers": 4, "num_experts": 4,
        "quantization_config": {
            "activation_scheme": "dynamic", "fmt": "e4m3", "modules_to_not_convert": plain,
            "quant_method": "fp8", "weight_block_size": [128, 128],
        },
    }  # fmt: skip
    return Published(blocks, fp8, plain, config)


MODELS = (
    deepseek_v3, qwen3_moe, minimax_m2, llama_405b_fbgemm, mixtral_autofp8, nvidia_llama, gemma3,
    qwen2_vl, llama4_modelopt, qwen3_next,
)  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_what_is_published_raises_no_alarm(model: Callable[[], Published], tmp_path: Path) -> None:
    published = model()
    found = examine(published.write(tmp_path))
    assert tuple(fault.code for fault in found.faults) == published.allowed, shown(found)
    assert sum(count for way, count in found.linears.items() if way.startswith("fp8")) >= len(
        published.fp8
    )


def test_what_is_not_fp8_is_refused_in_a_line(tmp_path: Path) -> None:
    """GPT-OSS: MXFP4 in bytes."""
    names = [f"model.layers.0.mlp.experts.{part}_proj_blocks" for part in ("gate_up", "down")]
    tensors = {name: torch.ones(4, 64, 16, dtype=torch.uint8) for name in names}
    config = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": []}}
    folder = Checkpoint("modelopt", tensors, config, None).write(tmp_path)
    assert json.loads((folder / "config.json").read_text()) == config
    with pytest.raises(BadInput, match=r"nothing here is FP8.*2 tensors in U8"):
        examine(folder)
