"""Faults in lists, in what else the metadata says, in files and plans."""

from __future__ import annotations

from tests.checkpoint.doctor.zoo.corruptions import (
    ATTENTION,
    MLP,
    Planted,
    all_plain,
    also_listed,
    cut,
    e5m2,
    edited,
    fp8_head,
    index_of_base,
    keep,
    more_layers,
    on_disk,
    plain_but_scaled,
    pointer,
    prefixed,
    q_alone_in_bf16,
    retargeted,
    retyped,
    said,
    sharded,
    shards_of_base,
    swapped_index,
    twice,
    unlisted,
    with_plan,
)
from tests.checkpoint.doctor.zoo.editing import INDEX, SINGLE

PLAN = "autofp8-static-kv"
LISTS = (
    Planted(
        "a BF16 layer fell out of the list", "llm-compressor-static",
        unlisted(f"{MLP}.down_proj"),
        "bf16-not-ignored", f"{MLP}.down_proj",
    ),
    Planted(
        "one shard of qkv fell out of the list", "fbgemm",
        unlisted(f"{ATTENTION}.k_proj"),
        "bf16-not-ignored", f"{ATTENTION}.k_proj",
    ),
    Planted(
        "an FP8 layer is on the list", "autofp8-static-kv",
        also_listed("ignored_layers", "model.layers.1.self_attn.o_proj"),
        "fp8-ignored", "model.layers.1.self_attn.o_proj",
    ),
    Planted(
        "an FP8 layer is on the list", "compressed-tensors-groups",
        also_listed("ignore", "model.layers.1.mlp.down_proj"),
        "fp8-ignored", "model.layers.1.mlp.down_proj",
    ),
    Planted(
        "every MLP is on the list by a regex too wide", "llm-compressor-static",
        also_listed("ignore", "re:.*mlp.*"),
        "fp8-ignored", f"{MLP}.up_proj",
    ),
    Planted(
        "names of a multimodal wrapper", "fbgemm",
        prefixed("modules_to_not_convert"),
        "list-prefix", f"{ATTENTION}.q_proj",
    ),
    Planted(
        "names of a multimodal wrapper", "llm-compressor-static",
        prefixed("ignore"),
        "list-prefix", f"{MLP}.down_proj",
    ),
    Planted(
        "targets of a multimodal wrapper", "compressed-tensors-groups",
        edited(retargeted),
        "fp8-ignored", f"{ATTENTION}.q_proj",
    ),
    Planted(
        "a glob where a regex is read", "llm-compressor-static",
        said(ignore=["lm_head", "*down_proj"]),
        "bf16-not-ignored", f"{MLP}.down_proj",
    ),
    Planted(
        "a broken regex", "llm-compressor-static",
        said(ignore=["lm_head", "re:*down_proj"]),
        "metadata-malformed", "re:*down_proj",
    ),
    Planted(
        "an expert left in BF16", "llm-compressor-mixtral",
        edited(lambda c: c.dequantize("model.layers.0.block_sparse_moe.experts.1.up_proj")),
        "experts-split", "model.layers.0.block_sparse_moe.experts.1.up_proj",
    ),
    Planted(
        "q_proj alone in BF16", "modelopt-per-channel-per-token",
        edited(lambda c: c.dequantize(f"{ATTENTION}.q_proj")),
        "fused-split", f"{ATTENTION}.q_proj",
    ),
    Planted(
        "q_proj alone in BF16, and listed", "autofp8-static-kv",
        edited(q_alone_in_bf16),
        "fused-split", f"{ATTENTION}.q_proj",
    ),
    Planted(
        "q_proj in BF16, its scales still there", "autofp8-static-kv",
        plain_but_scaled(f"{ATTENTION}.q_proj"),
        "scale-of-bf16", f"{ATTENTION}.q_proj",
    ),
    Planted(
        "saved after it was dequantized", "transformers-block",
        edited(all_plain),
        "fp8-absent", f"{MLP}.down_proj",
    ),
)  # fmt: skip

METADATA = (
    Planted(
        "an output layer in FP8, where no engine quantizes it", PLAN,
        edited(fp8_head),
        "head-quantized", "lm_head",
    ),
    Planted(
        "a list that is a string", PLAN,
        said(ignored_layers="lm_head"),
        "metadata-malformed", "ignored_layers",
    ),
    Planted(
        "a class in lower case", "llm-compressor-dynamic",
        edited(lambda c: c.said["config_groups"]["group_0"].update(targets=["linear"])),
        "fp8-ignored", f"{MLP}.up_proj",
    ),
    Planted(
        "the list was mended in one file only", "modelopt-fp8-excluded",
        edited(lambda c: c.beside["exclude_modules"].remove(f"{MLP}.down_proj")),
        "metadata-disagree", f"{MLP}.down_proj",
    ),
    Planted(
        "two algorithms", "modelopt-per-channel-per-token",
        edited(lambda c: c.beside.update(quant_algo="FP8")),
        "metadata-disagree", "hf_quant_config.json",
    ),
    Planted(
        "the KV cache in one file only", "modelopt-mixtral",
        edited(lambda c: c.said.pop("kv_cache_scheme")),
        "metadata-disagree", "hf_quant_config.json",
    ),
    Planted(
        "a layer gone from one of two lists", "modelopt-mixed",
        edited(lambda c: c.said["quantized_layers"].pop(f"{MLP}.gate_proj")),
        "metadata-disagree", f"{MLP}.gate_proj", ("fp8-ignored",),
    ),
    Planted(
        "static, said of dynamic blocks", "deepseek-v3-block",
        said(activation_scheme="static"),
        "input-scale-missing", f"{MLP}.shared_experts.up_proj",
    ),
    Planted(
        "blocks of another size", "transformers-block",
        said(weight_block_size=[64, 64]),
        "scheme-differs", f"{ATTENTION}.q_proj",
    ),
    Planted(
        "per tensor, said of channels", "llm-compressor-dynamic",
        edited(lambda c: c.said["config_groups"]["group_0"]["weights"].update(strategy="tensor")),
        "scheme-differs", f"{MLP}.up_proj",
    ),
    Planted(
        "the base model's config.json", "autofp8-static-kv",
        edited(lambda c: c.config.pop("quantization_config")),
        "metadata-missing", "config.json",
    ),
    Planted(
        "a method that nobody knows", "fbgemm",
        said(quant_method="fbgemm-fp8"),
        "quant-method-unknown", "fbgemm-fp8",
    ),
    Planted(
        "config.json is cut off", "llm-compressor-kv",
        on_disk(lambda c: (c.folder / "config.json").write_text('{"architectures": [')),
        "config-unreadable", "config.json",
    ),
    Planted(
        "config.json is missing", "llm-compressor-kv",
        on_disk(lambda c: (c.folder / "config.json").unlink()),
        "config-missing", "config.json",
    ),
    Planted(
        "codes as bytes", "fbgemm",
        retyped(f"{MLP}.up_proj", "U8"),
        "fp8-format", f"{MLP}.up_proj",
    ),
    Planted(
        "E5M2", "autofp8-static-kv",
        edited(e5m2),
        "fp8-format", f"{MLP}.down_proj",
    ),
)  # fmt: skip

FILES = (
    Planted("cut off", "modelopt-mixed", on_disk(cut), "file-truncated", SINGLE),
    Planted(
        "a pointer to the file", "modelopt-mixed", on_disk(pointer),
        "header-unreadable", SINGLE,
    ),
    Planted(
        "empty", "deepseek-v3-block",
        on_disk(lambda c: (c.folder / SINGLE).write_bytes(b"")),
        "file-truncated", SINGLE,
    ),
    Planted(
        "bytes behind the end", "fbgemm",
        on_disk(lambda c: (c.folder / SINGLE).write_bytes(
            (c.folder / SINGLE).read_bytes() + b"\0" * 512)),
        "file-trailing", SINGLE,
    ),
    Planted(
        "a shard is missing", "autofp8-static-kv",
        sharded(lambda c: (c.folder / "model-00002-of-00002.safetensors").unlink()),
        "shard-missing", "model-00002-of-00002.safetensors",
    ),
    Planted(
        "the index is missing", "llm-compressor-mixtral",
        sharded(lambda c: (c.folder / INDEX).unlink()),
        "weights-missing", INDEX,
    ),
    Planted(
        "the index names the wrong shard", "modelopt-mixed",
        sharded(swapped_index),
        "index-not-in-shard", f"{MLP}.down_proj.weight",
    ),
    Planted(
        "a tensor lies in two shards", "compressed-tensors-groups",
        sharded(twice),
        "tensor-duplicate", "lm_head.weight",
    ),
    Planted(
        "half a layer is not there at all", "fbgemm",
        edited(lambda c: c.drop("up_proj.weight", "up_proj.weight_scale")),
        "linear-missing", f"{MLP}.up_proj",
    ),
    Planted(
        "a layer is not there at all", "modelopt-mixed",
        edited(lambda c: [c.tensors.pop(n) for n in list(c.tensors) if ".layers.1." in n]),
        "layers-missing", "model.layers.1",
    ),
    Planted(
        "the base model's index", "llm-compressor-static", sharded(index_of_base),
        "index-incomplete", f"{ATTENTION}.q_proj.weight_scale",
    ),
    Planted(
        "the base model's shards left beside", "llm-compressor-dynamic", on_disk(shards_of_base),
        "weights-twice", INDEX,
    ),
    Planted(
        "hf_quant_config.json is cut off", "modelopt-phi3",
        on_disk(lambda c: (c.folder / "hf_quant_config.json").write_text("{")),
        "metadata-unreadable", "hf_quant_config.json",
    ),
)  # fmt: skip

PLANS = (
    Planted(
        "of a model with more layers", PLAN,
        with_plan(lambda c, plan: more_layers(plan)),
        "plan-linears-missing", "model.layers.2.mlp.up_proj",
    ),
    Planted(
        "of another architecture", PLAN,
        with_plan(lambda c, plan: plan["model"].update(architecture="Qwen2ForCausalLM")),
        "plan-other-model", "plan.json",
    ),
    Planted(
        "asks for BF16 where the files hold FP8", PLAN,
        with_plan(lambda c, plan: keep(plan, "model.layers.1.mlp.down_proj")),
        "plan-not-realized", "model.layers.1.mlp.down_proj",
    ),
    Planted(
        "input scales are half of those planned", PLAN,
        with_plan(lambda c, _: c.scale(lambda v: v / 2, "input_scale")),
        "plan-input-scales", "model.layers.0.mlp.down_proj.input_scale",
    ),
    Planted(
        "cut off", PLAN,
        on_disk(lambda c: (c.folder / "plan.json").write_text('{"format": "fp8scope')),
        "plan-unreadable", "plan.json",
    ),
)  # fmt: skip
