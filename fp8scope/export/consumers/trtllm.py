"""TensorRT-LLM, the PyTorch backend: it reads the lists of FP8 checkpoints, and makes none itself.

`hf_quant_config.json` wins over config.json. `QuantConfig` in the LLM API is ignored but for a
check that the checkpoint's algorithm is the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from fp8scope.core.modules import WORDS, Model, Treatment
from fp8scope.export.consumer import SAYS, CannotExpress, Consumer, Document, Form, Layer
from fp8scope.export.matchers.trtllm_configs import read_compressed, read_modelopt, read_own
from fp8scope.export.matchers.trtllm_match import VERSIONS
from fp8scope.export.matchers.trtllm_reading import layers

_ALGORITHM_OF: dict[Treatment, str] = {
    "fp8_tensor": "FP8",
    "fp8_token": "FP8_PER_CHANNEL_PER_TOKEN",
    "fp8_block": "FP8_BLOCK_SCALES",
}


def write(model: Model) -> Document:
    """Options of `trtllm-serve`, the same in Python, and the build line. Raises CannotExpress."""
    built = layers(model)
    wanted = {_one(layer) for layer in built} - {"bf16"}
    if len(wanted) > 1:
        raise CannotExpress(
            f"TensorRT-LLM's QuantConfig has one algorithm, wanted are {_words(wanted)}",
            "--to hf-quant-config says MIXED_PRECISION layer by layer, read from 1.3 on",
        )
    if model.kv_cache == "mixed":
        raise CannotExpress(
            "TensorRT-LLM has one precision for the KV cache of all layers",
            "plan it for all or none",
        )
    treatment = next(iter(wanted), None)
    cache = "FP8" if model.kv_cache == "fp8" else None
    kept = [name for layer in built if _one(layer) == "bf16" for name in _listed(layer)]
    section = {
        "quant_algo": _ALGORITHM_OF.get(treatment) if treatment else None,
        "kv_cache_quant_algo": cache,
        "exclude_modules": kept if treatment else [],
    }
    options = {"kv_cache_config": {"dtype": "fp8" if cache else "auto"}}
    forms = {
        "yaml": Form(".yaml", _yaml(model, options)),
        "python": Form(".py", _python(model, section, options)),
    }
    if treatment == "fp8_tensor":
        forms["trtllm-build"] = Form(".sh", _build(model))
    return Document(
        kind="metadata",
        forms=forms,
        config={"quant_config": section, **options},
        use=(
            "trtllm-serve CHECKPOINT --config x.yaml",
            "trtllm-serve CHECKPOINT --extra_llm_api_options x.yaml  # up to 1.1",
        ),
    )


def _listed(layer: Layer) -> tuple[str, ...]:
    return layer.shards if layer.shards and layer.kind != "experts" else (layer.name,)


def _one(layer: Layer) -> Treatment:
    """What all of a layer should run in. Raises CannotExpress where it cannot."""
    wanted = {module.wanted or "bf16" for module in layer.modules}
    if len(wanted) > 1:
        raise CannotExpress(
            f"{layer.name} is one layer in TensorRT-LLM, wanted in {_words(wanted)}",
            "give all its members the same precision in the plan",
        )
    treatment = wanted.pop()
    if treatment == "bf16":
        return treatment
    if layer.kind == "lm_head" or layer.modules[0].kind == "router":
        raise CannotExpress(f"TensorRT-LLM does not quantize {layer.name}", "keep it in BF16")
    if treatment not in _ALGORITHM_OF or (layer.kind == "experts" and treatment == "fp8_token"):
        raise CannotExpress(
            f"TensorRT-LLM cannot run {layer.name} in {WORDS[treatment]}",
            "plan it per tensor with static scales, which --to hf-quant-config writes",
        )
    return treatment


def _words(treatments: set[Treatment]) -> str:
    return " and ".join(sorted(WORDS[treatment] for treatment in treatments))


def _comments(model: Model, *more: str) -> str:
    lines = [f"TensorRT-LLM, {SAYS['metadata']}"]
    if model.folded:
        lines.append("smoothing must be folded into the weights before they are quantized")
    return "".join(f"# {line}\n" for line in (*lines, *more))


def _yaml(model: Model, options: Mapping[str, Any]) -> str:
    comments = _comments(
        model,
        "which layers stay in BF16 is read from the checkpoint's hf_quant_config.json and from",
        "nowhere else: fp8scope export --to hf-quant-config",
    )
    text: str = yaml.safe_dump(dict(options), sort_keys=False)
    return comments + text


def _python(model: Model, section: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    comments = _comments(
        model,
        "quant_config only says it again: the PyTorch backend takes hf_quant_config.json, warns,",
        "and raises where that has another algorithm: fp8scope export --to hf-quant-config",
    )
    names = "".join(f"        {name!r},\n" for name in section["exclude_modules"])
    algorithm, cache = (
        f"QuantAlgo.{section[key]}" if section[key] else "None"
        for key in ("quant_algo", "kv_cache_quant_algo")
    )
    return (
        f"{comments}from tensorrt_llm import LLM\n"
        "from tensorrt_llm.llmapi import KvCacheConfig, QuantAlgo, QuantConfig\n\n"
        "quant_config = QuantConfig(\n"
        f"    quant_algo={algorithm},\n"
        f"    kv_cache_quant_algo={cache},\n"
        f"    exclude_modules=[\n{names}    ],\n"
        ")\n"
        "llm = LLM(\n"
        '    model="CHECKPOINT",\n'
        "    quant_config=quant_config,\n"
        f"    kv_cache_config=KvCacheConfig(dtype={options['kv_cache_config']['dtype']!r}),\n"
        ")\n"
    )


def _build(model: Model) -> str:
    comments = _comments(
        model,
        "only up to 1.2: the TensorRT backend was removed after it",
        "CHECKPOINT is one in that backend's own format, whose config.json holds the list",
    )
    line = ["trtllm-build", "--checkpoint_dir", "CHECKPOINT", "--output_dir", "ENGINE"]
    return f"#!/bin/sh\n{comments}{shlex.join([*line, '--gemm_plugin', 'fp8'])}\n"


CONSUMER = Consumer(
    name="trtllm",
    about="TensorRT-LLM, the PyTorch backend on an FP8 checkpoint",
    write=write,
    reads={
        "hf-quant-config": read_modelopt,
        "compressed-tensors": read_compressed,
        "trtllm": read_own,
    },
    rules={
        "hf-quant-config": "globs over whole names, after 1.2 also names of what a layer lies in,"
        " and re:; any part of a fused layer keeps all of it",
    },
    versions=VERSIONS,
)
