"""The random models that the checkpoints here are made of: small, BF16, the same on every run.

Imports nothing of ours, since llm-compressor's script runs where fp8scope is not installed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

MAX = torch.finfo(torch.float8_e4m3fn).max
VOCAB = 32
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.08,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
ONE_LAYER = {**COMMON, "num_hidden_layers": 1}
# Blocks of 128x128: what an engine fuses must be cut between blocks.
WIDE = {
    **ONE_LAYER,
    "hidden_size": 128,
    "intermediate_size": 128,
    "head_dim": 64,
}
# Its MLP in blocks, of which every matrix has several; attention stays narrow, and in BF16.
BLOCKS = {
    **ONE_LAYER,
    "hidden_size": 256,
    "intermediate_size": 128,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "tie_word_embeddings": True,
}
DEEPSEEK: dict[str, Any] = {
    **ONE_LAYER,
    "num_key_value_heads": 4,
    "q_lora_rank": 128,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "first_k_dense_replace": 0,
    "moe_intermediate_size": 128,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
}
MIXTRAL = {
    **ONE_LAYER,
    "intermediate_size": 48,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}

CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**COMMON),
    "llama_wide": lambda: LlamaConfig(**WIDE),
    "llama_blocks": lambda: LlamaConfig(**BLOCKS),
    "llama_short": lambda: LlamaConfig(**ONE_LAYER),
    "qwen2": lambda: Qwen2Config(**{**ONE_LAYER, "tie_word_embeddings": True}),
    "qwen3_wide": lambda: Qwen3Config(**{**WIDE, "tie_word_embeddings": True}),
    "mixtral": lambda: MixtralConfig(**MIXTRAL),
    "phi3": lambda: Phi3Config(**ONE_LAYER),
    "deepseek_v3": lambda: DeepseekV3Config(**DEEPSEEK),
}


def build(name: str) -> Any:
    """A random model in BF16 and eval mode; its biases are random too."""
    torch.manual_seed(0)
    source: Any = AutoModelForCausalLM
    model = source.from_config(CONFIGS[name](), dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.normal_(0.0, 0.3)
    model.config.architectures = [type(model).__name__]
    return model.eval()


def token_ids() -> torch.Tensor:
    """Token ids [16, 32]: what static scales are calibrated on."""
    return torch.randint(3, VOCAB, (16, 32), generator=torch.Generator().manual_seed(1))


def calibrate(model: Any) -> None:
    """Four forward passes."""
    with torch.no_grad():
        for ids in token_ids().split(4):
            model(input_ids=ids, use_cache=False)


def amaxes(model: Any, of: Literal["input", "output"] = "input") -> dict[str, torch.Tensor]:
    """amax of every linear's input or output over the calibration tokens."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            amax = (inputs[0] if of == "input" else output).abs().max()
            found[name] = torch.maximum(amax, found.get(name, amax))

        return hook

    linears = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    hooks = [module.register_forward_hook(keep(name)) for name, module in linears]
    calibrate(model)
    for hook in hooks:
        hook.remove()
    return found


def empty(folder: Path) -> Path:
    """`folder`, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def files(folder: Path) -> Iterator[str]:
    """Every file's name and size, to be printed."""
    for path in sorted(folder.iterdir()):
        yield f"{folder.name}/{path.name} {path.stat().st_size:,}"
