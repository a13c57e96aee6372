"""Lists that people reported as not working, rebuilt small, and what `check` should say of each.

Some reports are of INT4 or FP4, or of versions long gone: what they rest on, how an engine matches
names against a list, is rebuilt in FP8 and for the versions that are known here. Where that version
takes what was reported, the case holds. KV scales (vllm#25047, #5493) are in no list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.export.reported_models import (
    QKV,
    Stored,
    delta_net,
    llama,
    mixtral,
    phi3,
    qwen3_moe,
    step,
    vision,
)

VERSIONS = {
    "vllm": "0.33.0",
    "sglang": "0.5.23",
    "trtllm": "1.3",
    "llm-compressor": "0.14.0.1",
    "modelopt": "0.47.0",
}


@dataclass(frozen=True)
class Case:
    """`name` is that of the report, and of the file with its config.

    `says`: the one sentence that names what is wrong, empty where all is right. `differ`: the
    layers that will not run as they should. `lists`: entries of the list that is offered; None
    where the proof holds or nothing can be offered. `is_recipe`: it is for a BF16 model.
    """

    name: str
    consumer: str
    architecture: str
    stored: Stored
    says: str = ""
    differ: tuple[str, ...] = ()
    lists: tuple[str, ...] | None = None
    is_recipe: bool = False


def at(block: int, *parts: str, under: str = "model.layers") -> tuple[str, ...]:
    return tuple(f"{under}.{block}.{part}" for part in parts)


def some(*names: str) -> str:
    """As sentences name several."""
    left = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + left


QWEN_VL = "Qwen2_5_VLForConditionalGeneration"
GEMMA = "Gemma3ForConditionalGeneration"
HEAD = ("lm_head",)
QKV_0, QKV_1 = "model.layers.0.self_attn.qkv_proj", "model.layers.1.self_attn.qkv_proj"
DELTA = "language_model.model.layers.{}.linear_attn.in_proj_ba"
FUSED_7 = ("mlp.down_proj", "mlp.gate_up_proj", "self_attn.qkv_proj", "self_attn.o_proj")
SORTED = (
    "mlp.down_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "self_attn.k_proj",
    "self_attn.o_proj",
    "self_attn.q_proj",
    "self_attn.v_proj",
)
KQV = ("self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj")
MOE, SPARSE = "model.layers.1.mlp.experts", "model.layers.1.block_sparse_moe"
TOWER = ("attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2")
VISUAL = at(0, *TOWER, under="visual.blocks") + at(1, *TOWER, under="visual.blocks")
MODEL_VISUAL = tuple(f"model.{name}" for name in VISUAL)
VISION_TOWER = tuple(name.replace("visual", "vision_tower") for name in VISUAL)
STARS = "“*.self_attn.q_proj”, “*.self_attn.k_proj”, “*.self_attn.v_proj”"
DOWN_1 = "model.layers.1.mlp.down_proj"
ONE_DOWN = vision("fp8_token", "1.mlp.down_proj")
NO_QKV = llama("fp8_tensor", *QKV)
NO_EXPERTS = mixtral("fp8_tensor", "1.block_sparse_moe")
NO_QKV_0 = phi3("fp8_tensor", "0.self_attn.qkv_proj")
ONE_BLOCK = llama("fp8_tensor", "layers.1.", blocks=11)

# shards of what an engine fuses
FUSED = [
    Case(
        "vllm-11790",
        "vllm",
        "LlamaForCausalLM",
        llama("bf16"),
        f"{QKV_0} is refused: it runs q_proj, k_proj, v_proj as one, and only q_proj is named",
        (QKV_0,),
        (*at(0, *KQV), "lm_head"),
        is_recipe=True,
    ),
    Case(
        "vllm-11790",
        "sglang",
        "LlamaForCausalLM",
        llama("bf16"),
        f"ignore “model.layers.0.self_attn.q_proj” matches nothing, so {QKV_0} is not in BF16 "
        "(SGLang's LlamaForCausalLM declares no shards of it: list it by its own name)",
        (QKV_0,),
        (QKV_0, "lm_head"),
        is_recipe=True,
    ),
    Case(  # what was made of it cannot be run at all
        "vllm-11790",
        "vllm",
        "LlamaForCausalLM",
        llama("fp8_token", "0.self_attn.q_proj"),
        f"{QKV_0} is run as one, but its parts should be BF16 and FP8 per token",
        (QKV_0,),
    ),
    # 0.10.2 ran in_proj_ba as one with what is in FP8; the known version runs it apart
    Case(
        "vllm-25378",
        "vllm",
        "Qwen3NextForCausalLM",
        delta_net("in_proj_qkvz", "in_proj_ba"),
    ),
    Case(
        "vllm-25378-half",
        "vllm",
        "Qwen3_5ForConditionalGeneration",
        delta_net(
            "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", at="model.language_model.layers"
        ),
        f"{DELTA.format(0)}, {DELTA.format(1)} are refused: each runs in_proj_b, in_proj_a as one, "
        "and only in_proj_a is named",
        (DELTA.format(0), DELTA.format(1)),
        (
            *at(
                0,
                "linear_attn.in_proj_a",
                "linear_attn.in_proj_b",
                under="model.language_model.layers",
            ),
            *at(
                1,
                "linear_attn.in_proj_a",
                "linear_attn.in_proj_b",
                under="model.language_model.layers",
            ),
            "lm_head",
        ),
    ),
    # the class now declares its shards; others still do not
    Case(
        "vllm-31623",
        "vllm",
        "MiniMaxM2ForCausalLM",
        llama("fp8_token", "mlp", "o_proj"),
    ),
    Case(
        "vllm-31623",
        "vllm",
        "OrionForCausalLM",
        llama("fp8_token", "mlp", "o_proj"),
        r"config_groups.group_0.targets “re:.*self_attn\.(q|k|v)_proj$” matches nothing, "
        f"so {QKV_0}, {QKV_1} are not in FP8 per token",
        (QKV_0, QKV_1),
        (
            *at(0, *SORTED[:3], "self_attn.o_proj"),
            *at(1, *SORTED[:3], "self_attn.o_proj"),
            "lm_head",
            *at(0, "mlp.gate_up_proj"),
            *at(1, "mlp.gate_up_proj"),
        ),
    ),
    Case(
        "sglang-36596",
        "sglang",
        "LlamaForCausalLM",
        NO_QKV,
        f"ignore {STARS} match nothing, so {QKV_0}, {QKV_1} are not in BF16",
        (QKV_0, QKV_1),
        (*at(0, *KQV), *at(1, *KQV), "lm_head"),
    ),
    Case(
        "sglang-36596",
        "vllm",
        "LlamaForCausalLM",
        NO_QKV,
        f"ignore {STARS} match nothing, so {QKV_0}, {QKV_1} are not in BF16",
        (QKV_0, QKV_1),
        (*at(0, *KQV), *at(1, *KQV), "lm_head"),
    ),
    Case(
        "sglang-37673",
        "sglang",
        "Qwen3MoeForCausalLM",
        qwen3_moe("fp8_tensor", "1.mlp.experts"),
        f"ignore “{MOE}.0.gate_proj”, “{MOE}.0.up_proj”, “{MOE}.0.down_proj” and 6 more match "
        f"nothing, so {MOE} is not in BF16 (SGLang asks only for {MOE})",
        (MOE,),
        (*at(0, "mlp.gate"), MOE, *at(1, "mlp.gate"), "lm_head"),
    ),
    # its kernels were wrong, and its list never was
    Case("TensorRT-LLM-12609", "trtllm", "Qwen2ForCausalLM", NO_QKV),
    Case(
        "TensorRT-LLM-12609",
        "sglang",
        "Qwen2ForCausalLM",
        NO_QKV,
        f"{some(*at(0, *FUSED_7), *at(1, *FUSED_7), 'lm_head')}: "
        "SGLang takes MIXED_PRECISION without NVFP4 for W4AFP8 and cannot load it",
        (*at(0, *FUSED_7), *at(1, *FUSED_7), "lm_head"),
        (*at(0, *KQV), *at(1, *KQV), "lm_head"),
    ),
]

# prefixes, and families whose modules are renamed
RENAMED = [
    Case(
        "vllm-54547",
        "vllm",
        QWEN_VL,
        vision("fp8_token"),
        rf"ignore “re:model\.visual\..*” matches nothing, so {some(*VISUAL)} are not in BF16",
        VISUAL,
        (*MODEL_VISUAL, "lm_head"),
    ),
    Case("vllm-28072", "vllm", QWEN_VL, ONE_DOWN),  # names of the files, which it now renames
    Case(
        "vllm-28072",
        "sglang",
        QWEN_VL,
        ONE_DOWN,
        "ignore “model.language_model.layers.1.mlp.down_proj” matches nothing, "
        f"so {DOWN_1} is not in BF16",
        (DOWN_1,),
        tuple(f"re:^{re.escape(name)}$" for name in (DOWN_1, *VISUAL, "lm_head")),
    ),
    Case(
        "llm-compressor-1428",
        "llm-compressor",
        QWEN_VL,
        vision("bf16"),
        "QuantizationModifier ignore “re:visual.*” matches nothing, "
        f"so {some(*MODEL_VISUAL)} are not in BF16",
        MODEL_VISUAL,
        (*MODEL_VISUAL, "lm_head"),
        is_recipe=True,
    ),
    Case(
        "sglang-36596-prefix",
        "sglang",
        GEMMA,
        vision("fp8_tensor", "1.mlp.down_proj", tower="vision_tower"),
        f"ignore “model.vision_tower*” matches nothing, so {some(*VISION_TOWER)} are not in BF16",
        VISION_TOWER,
        (f"language_model.{DOWN_1}", *VISION_TOWER, "language_model.lm_head"),
    ),
    Case(
        "sglang-36596-prefix",
        "vllm",
        GEMMA,
        vision("fp8_tensor", "1.mlp.down_proj", tower="vision_tower"),
    ),
    Case(
        "mixtral-runtime",
        "vllm",
        "MixtralForCausalLM",
        NO_EXPERTS,
        f"ignore “{MOE}” matches nothing, so {SPARSE}.experts is not in BF16",
        (f"{SPARSE}.experts",),
        (
            *at(0, "block_sparse_moe.gate"),
            *(f"{SPARSE}.experts.{n}.{shard}" for n in range(3) for shard in ("w1", "w2", "w3")),
            *at(1, "block_sparse_moe.gate"),
            "lm_head",
        ),
    ),
    Case(
        "mixtral-runtime",
        "sglang",
        "MixtralForCausalLM",
        NO_EXPERTS,
        f"ignore “{MOE}” matches nothing, so {SPARSE}.experts is not in BF16",
        (f"{SPARSE}.experts",),
        (*at(0, "block_sparse_moe.gate"), f"{SPARSE}.experts", f"{SPARSE}.gate", "lm_head"),
    ),
    Case("mixtral-files", "vllm", "MixtralForCausalLM", NO_EXPERTS),
    Case("mixtral-files", "sglang", "MixtralForCausalLM", NO_EXPERTS),
    Case(
        "phi3-parts",
        "vllm",
        "Phi3ForCausalLM",
        NO_QKV_0,
        "ignore “model.layers.0.self_attn.q_proj”, “model.layers.0.self_attn.k_proj”, "
        f"“model.layers.0.self_attn.v_proj” match nothing, so {QKV_0} is not in BF16",
        (QKV_0,),
        (QKV_0, "lm_head"),
    ),
    Case("phi3-parts", "sglang", "Phi3ForCausalLM", NO_QKV_0),  # it knows the usual shards
    Case("phi3-fused", "vllm", "Phi3ForCausalLM", NO_QKV_0),
]

# entries that reach others, or not all that they should
REACH = [
    Case(
        "vllm-45132",
        "vllm",
        "Qwen3ForCausalLM",
        {**llama("fp8_tensor"), "lm_head": "fp8_tensor"},
        "ignore “lm_head*” matches lm_head, which should be FP8 per tensor, static",
        HEAD,
        (),
    ),
    Case(
        "vllm-48883",
        "vllm",
        "Step3p5ForCausalLM",
        step(),
        "model.layers.2.shared_head.head will run in FP8 per tensor, static and should be BF16: "
        "no entry names it",
        at(2, "shared_head.head"),
        (*at(2, "eh_proj", *SORTED, "shared_head.head"), "lm_head"),
    ),
    Case("vllm-48883-named", "vllm", "Step3p5ForCausalLM", step()),
    Case(
        "compressed-tensors-712",
        "vllm",
        "LlamaForCausalLM",
        llama("fp8_token"),
        rf"ignore “re:.*layers\.1\..*” matches {some(*at(1, *FUSED_7))}, "
        "which should be FP8 per token",
        at(1, *FUSED_7),
        HEAD,
    ),
    Case(
        "layers-1",
        "vllm",
        "LlamaForCausalLM",
        ONE_BLOCK,
        f"ignore “model.layers.1” also matches {some(*at(10, *FUSED_7))}, "
        "which should be FP8 per tensor, static",
        at(10, *FUSED_7),
        (*at(1, *SORTED), "lm_head"),
    ),
    Case("layers-1", "sglang", "LlamaForCausalLM", ONE_BLOCK),
]
CASES = [*FUSED, *RENAMED, *REACH]
