"""Layouts whose producers do not run here, written as engines load them.

    python -m tests.checkpoint.doctor.zoo.make_layouts FOLDER

`quant_method: fp8` and `fbgemm_fp8` are read off vLLM 0.33's loaders (layers/quantization/fp8.py,
fbgemm_fp8.py, kv_cache.py). The words of `quantization_config` are those of DeepSeek-V3, of what
AutoFP8 saves (its own source says which scales, and that ignored layers are listed) and of
transformers' FbgemmFp8Config, as with Meta's Llama-3.1-405B-FP8.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad

from tests.checkpoint.doctor.zoo.tiny_models import MAX, amaxes, build, empty, files

BLOCK = 128
Tensors = dict[str, Tensor]
Layout = Callable[[str, Tensor, Mapping[str, Tensor]], Tensors]


def _codes(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight.float() / scale).clamp(-MAX, MAX).to(torch.float8_e4m3fn)


def _block(name: str, weight: Tensor, _: Mapping[str, Tensor]) -> Tensors:
    rows, columns = weight.shape
    padded = pad(weight.float(), (0, -columns % BLOCK, 0, -rows % BLOCK))
    blocks = padded.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
    scale = blocks.abs().amax(dim=(1, 3)) / MAX
    spread = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:rows, :columns]
    return {f"{name}.weight": _codes(weight, spread), f"{name}.weight_scale_inv": scale}


def _static(name: str, weight: Tensor, amax: Mapping[str, Tensor]) -> Tensors:
    scale = weight.float().abs().max() / MAX
    return {
        f"{name}.weight": _codes(weight, scale),
        f"{name}.weight_scale": scale,
        f"{name}.input_scale": amax[name].float() / MAX,
    }


def _row(name: str, weight: Tensor, _: Mapping[str, Tensor]) -> Tensors:
    scale = weight.float().abs().amax(dim=1, keepdim=True) / MAX
    return {f"{name}.weight": _codes(weight, scale), f"{name}.weight_scale": scale}


ATTENTION = [f"model.layers.0.self_attn.{part}_proj" for part in "qkvo"]
MADE: dict[str, tuple[str, Layout, list[str], dict[str, Any]]] = {
    "deepseek-v3-block": (
        "deepseek_v3",
        _block,
        ["lm_head", "mlp.gate"],  # in BF16, though DeepSeek lists nothing
        {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [BLOCK, BLOCK],
        },
    ),
    "autofp8-static-kv": (
        "llama",
        _static,
        ["lm_head"],
        {
            "quant_method": "fp8",
            "activation_scheme": "static",
            "ignored_layers": ["lm_head"],
            "kv_cache_scheme": "static",
        },
    ),
    "fbgemm": (
        "llama_short",
        _row,
        [*ATTENTION, "lm_head"],
        {
            "activation_scale_ub": 1200.0,
            "modules_to_not_convert": [*ATTENTION, "lm_head"],
            "quant_method": "fbgemm_fp8",
        },
    ),
}


def _cache(model: Any, found: Tensors) -> None:
    """AutoFP8's scales of the KV cache: of what k_proj and v_proj give."""
    outputs = amaxes(model, of="output")
    for name, amax in outputs.items():
        if name.endswith(("k_proj", "v_proj")):
            found[f"{name}.output_scale"] = amax.float() / MAX


def main(folder: Path) -> None:
    for name, (model_name, layout, kept, config) in MADE.items():
        target = empty(folder / name)
        model = build(model_name)
        amax = amaxes(model)
        model.save_pretrained(target)
        found: Tensors = {}
        for tensor_name, tensor in load_file(target / "model.safetensors").items():
            module = tensor_name.removesuffix(".weight")
            if tensor.ndim != 2 or "embed" in module or module.endswith(tuple(kept)):
                found[tensor_name] = tensor
            else:
                found |= layout(module, tensor, amax)
        if "kv_cache_scheme" in config:
            _cache(model, found)
        save_file(found, target / "model.safetensors", {"format": "pt"})
        settings = json.loads((target / "config.json").read_text())
        text = json.dumps(settings | {"quantization_config": config}, indent=2)
        (target / "config.json").write_text(text + "\n")
        print(*files(target), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
