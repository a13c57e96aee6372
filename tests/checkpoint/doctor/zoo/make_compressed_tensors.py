"""A checkpoint by compressed-tensors itself: two groups and BF16, named module by module.

python -m tests.checkpoint.doctor.zoo.make_compressed_tensors FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

from tests.checkpoint.doctor.zoo.tiny_models import MAX, amaxes, build, empty, files

FLOAT8: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True}
PER_TENSOR = {**FLOAT8, "strategy": "tensor", "dynamic": False}
ATTENTION = [f"model.layers.{n}.self_attn.{p}_proj" for n in range(2) for p in "qkvo"]
MLP = [f"model.layers.1.mlp.{part}_proj" for part in ("gate", "up", "down")]
CONFIG = {
    "config_groups": {
        "group_0": {
            "targets": ATTENTION,
            "weights": PER_TENSOR,
            "input_activations": PER_TENSOR,
        },
        "group_1": {
            "targets": MLP,
            "weights": {**FLOAT8, "strategy": "channel", "dynamic": False},
            "input_activations": {**FLOAT8, "strategy": "token", "dynamic": True},
        },
    },
    "ignore": ["lm_head", *(name.replace("layers.1", "layers.0") for name in MLP)],
}


def main(folder: Path) -> None:
    target = empty(folder / "compressed-tensors-groups")
    model = build("llama")
    amax = amaxes(model)
    apply_quantization_config(model, QuantizationConfig.model_validate(CONFIG))
    with torch.no_grad():
        for name, module in model.named_modules():
            if hasattr(module, "weight_scale"):
                largest = module.weight.abs().amax(dim=1 if name in MLP else None)
                module.weight_scale.copy_((largest / MAX).view_as(module.weight_scale))
            if hasattr(module, "input_scale"):
                module.input_scale.copy_(amax[name] / MAX)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(target)
    compressor.update_config(str(target))
    print(*files(target), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
