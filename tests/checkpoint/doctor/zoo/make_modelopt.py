"""Checkpoints by ModelOpt's `export_hf_checkpoint`, its own metadata untouched.

python -m tests.checkpoint.doctor.zoo.make_modelopt FOLDER
"""

from __future__ import annotations

import copy
import sys
import warnings
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

from tests.checkpoint.doctor.zoo.tiny_models import build, calibrate, empty, files

FP8: dict[str, Any] = mtq.FP8_DEFAULT_CFG
TOKEN_WEIGHT = {"num_bits": (4, 3), "axis": 0}
TOKEN_INPUT = {"num_bits": (4, 3), "axis": None, "type": "dynamic", "block_sizes": {-1: None}}


def _with(*entries: dict[str, Any], of: dict[str, Any] = FP8) -> dict[str, Any]:
    config = copy.deepcopy(of)
    config["quant_cfg"] = [*config["quant_cfg"], *copy.deepcopy(entries)]
    return config


def _off(pattern: str) -> dict[str, Any]:
    return {"quantizer_name": pattern, "enable": False}


KV_CACHE = mtq.FP8_KV_CFG["quant_cfg"]
MIXED = _with(
    {"quantizer_name": "model.layers.1.mlp.*weight_quantizer", "cfg": TOKEN_WEIGHT},
    {"quantizer_name": "model.layers.1.mlp.*input_quantizer", "cfg": TOKEN_INPUT},
    _off("model.layers.0.mlp.down_proj.*"),
    _off("model.layers.0.self_attn.[qkv]_proj.*"),
)
MADE = {
    "modelopt-fp8-kv": ("llama", _with(*KV_CACHE)),
    "modelopt-fp8-excluded": (
        "qwen2",
        _with(_off("model.layers.0.mlp.down_proj.*"), _off("model.layers.0.self_attn.*")),
    ),
    "modelopt-per-channel-per-token": ("qwen2", mtq.FP8_PER_CHANNEL_PER_TOKEN_CFG),
    "modelopt-mixed": ("llama", MIXED),
    "modelopt-mixtral": ("mixtral", _with(*KV_CACHE)),
    "modelopt-phi3": ("phi3", FP8),
    "modelopt-block": (
        "llama_blocks",
        _with(_off("*self_attn*"), of=mtq.FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG),
    ),
}


def main(folder: Path) -> None:
    for name, (model_name, config) in MADE.items():
        target = empty(folder / name)
        model = build(model_name)
        mtq.quantize(model, config, calibrate)
        export_hf_checkpoint(model, export_dir=target)
        print(*files(target), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
