"""Small random models of every family, seeded, in fp32 and in eval mode.

Norm weights and biases are random too: with the usual ones and zeros, a fold that forgets
to scale a bias would go unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    StableLmConfig,
)

VOCAB = 96
HIDDEN = 32
LAYERS = 2
TOKENS = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
COMMON: dict[str, Any] = {
    **TOKENS,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
GQA = {"num_key_value_heads": 2}
# head_dim apart from hidden / heads, where the family allows it, so that no code divides.
GEMMA = {"head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 4}
# One block of experts and one of Llama's MLP.
QWEN3_MOE: dict[str, Any] = {
    "head_dim": 12,
    "moe_intermediate_size": 24,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "mlp_only_layers": [1],
}
GEMMA_LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
# Rotary factors for Phi-3, which change for a whole batch once its longest row passes 16 tokens.
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 16,
}
OPT: dict[str, Any] = {
    **TOKENS,
    "hidden_size": HIDDEN,
    "ffn_dim": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "word_embed_proj_dim": HIDDEN,
    "init_std": 0.2,
}
# Widths differ, so that none is taken for another; block 0 is dense, block 1 has experts, whose
# rows must be multiples of 16 bytes for the grouped matmul.
DEEPSEEK: dict[str, Any] = {
    **COMMON,
    "q_lora_rank": 20,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 8,
    "v_head_dim": 6,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
}

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": lambda **kw: LlamaConfig(
        **{**COMMON, **GQA, "attention_bias": True, "mlp_bias": True, "head_dim": 12, **kw}
    ),
    "mistral": lambda **kw: MistralConfig(**{**COMMON, **GQA, "sliding_window": 4, **kw}),
    "qwen2": lambda **kw: Qwen2Config(**{**COMMON, **GQA, **kw}),
    "qwen3": lambda **kw: Qwen3Config(**{**COMMON, **GQA, "head_dim": 12, **kw}),
    "mixtral": lambda **kw: MixtralConfig(
        **{**COMMON, **GQA, "num_local_experts": 4, "num_experts_per_tok": 2, **kw}
    ),
    "qwen3_moe": lambda **kw: Qwen3MoeConfig(**{**COMMON, **GQA, **QWEN3_MOE, **kw}),
    "gemma2": lambda **kw: Gemma2Config(**{**COMMON, **GQA, **GEMMA, **GEMMA_LAYERS, **kw}),
    "gemma3_text": lambda **kw: Gemma3TextConfig(
        **{**COMMON, **GQA, **GEMMA, **GEMMA_LAYERS, **kw}
    ),
    "phi3": lambda **kw: Phi3Config(**{**COMMON, **GQA, **kw}),
    "gpt_neox": lambda **kw: GPTNeoXConfig(**{**COMMON, "use_parallel_residual": True, **kw}),
    "gpt_neox_sequential": lambda **kw: GPTNeoXConfig(
        **{**COMMON, "use_parallel_residual": False, **kw}
    ),
    "gpt2": lambda **kw: GPT2Config(
        **{
            **TOKENS,
            "n_embd": HIDDEN,
            "n_layer": LAYERS,
            "n_head": 4,
            "n_positions": 128,
            "n_inner": 48,
            "initializer_range": 0.2,
            **kw,
        }
    ),
    "opt": lambda **kw: OPTConfig(**{**OPT, **kw}),
    "opt_post_norm": lambda **kw: OPTConfig(
        **{**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16, **kw}
    ),
    "deepseek_v2": lambda **kw: DeepseekV2Config(
        **{**DEEPSEEK, "attention_bias": True, "mlp_bias": True, **kw}
    ),
    "deepseek_v2_lite": lambda **kw: DeepseekV2Config(**{**DEEPSEEK, "q_lora_rank": None, **kw}),
    "deepseek_v3": lambda **kw: DeepseekV3Config(
        **{**DEEPSEEK, "num_key_value_heads": 4, "n_group": 2, "topk_group": 1, **kw}
    ),
    "stablelm": lambda **kw: StableLmConfig(**{**COMMON, **GQA, **kw}),
}

UNKNOWN = "stablelm"
KNOWN = tuple(name for name in CONFIGS if name != UNKNOWN)
LATENT = tuple(name for name in CONFIGS if name.startswith("deepseek"))


def build(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random fp32 model called `name` in CONFIGS, with `changes` to its config."""
    torch.manual_seed(seed)
    config = CONFIGS[name](**changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return _randomised(model)


def build_gemma3_multimodal(seed: int = 0) -> PreTrainedModel:
    """A random Gemma 3 with a vision tower, whose blocks hold a `self_attn` as well."""
    torch.manual_seed(seed)
    text = {**COMMON, **GQA, **GEMMA, **GEMMA_LAYERS}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return _randomised(Gemma3ForConditionalGeneration(config))


def _randomised(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.3)
            elif parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    nn.Module.eval(model)  # transformers' own override has no types
    return model


def token_ids(rows: int = 2, length: int = 12, seed: int = 1) -> Tensor:
    """Random token ids [rows, length], special tokens left out."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (rows, length), generator=generator)


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits [rows, length, vocab] of one forward without a cache."""
    with torch.no_grad():
        output: Tensor = model(input_ids=ids, use_cache=False).logits
    return output
