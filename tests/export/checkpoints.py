"""Small checkpoint folders with real headers: linears by name, each stored as asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fp8scope.core.modules import Treatment

WIDTH = 256  # two blocks


def write(
    folder: Path,
    architecture: str,
    stored: Mapping[str, Treatment],
    quantization: Mapping[str, Any] | None = None,
) -> Path:
    """A folder with config.json and one safetensors file. `quantization`, where given, is its
    `quantization_config`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, treatment in stored.items():
        tensors |= {f"{name}.{part}": tensor for part, tensor in _linear(treatment)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config: dict[str, Any] = {"architectures": [architecture], "model_type": "small"}
    if quantization is not None:
        config["quantization_config"] = dict(quantization)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _linear(treatment: Treatment) -> Iterable[tuple[str, Tensor]]:
    weight = torch.zeros(WIDTH, WIDTH, dtype=torch.bfloat16)
    if treatment == "bf16":
        yield "weight", weight
        return
    yield "weight", weight.to(torch.float8_e4m3fn)
    shapes = {"fp8_tensor": (), "fp8_token": (WIDTH, 1), "fp8_block": (2, 2)}
    name = "weight_scale_inv" if treatment == "fp8_block" else "weight_scale"
    yield name, torch.ones(shapes[treatment])
    if treatment == "fp8_tensor":
        yield "input_scale", torch.ones(())
