"""Every family that transformers builds: nothing is lost, and the cache is its own."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from fp8scope.checkpoint.inventory import read_inventory
from fp8scope.core.gpus import gpu
from fp8scope.core.roofline import Workload
from fp8scope.estimate.api import estimate, read_served
from fp8scope.runtime.structure import discover
from tests import models

FAMILIES = [name for name in models.CONFIGS if name != "stablelm"]  # not known by name


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family(name: str, tmp_path: Path) -> None:
    model: Any = models.build(name)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    served = read_served(str(tmp_path))
    tensors = read_inventory(tmp_path).tensors
    assert served.parameters == sum(prod(tensor.shape) for tensor in tensors)
    assert [(layer.kv_heads, layer.key, layer.value) for layer in served.attention] == [
        (layer.kv_heads, layer.head_dim, 0 if layer.latent_dim else layer.head_dim)
        for layer in discover(model).kv_layers
    ]
    for tp in (1, 2):
        found = estimate(served, gpu("h100"), tp=tp, workload=Workload(2, 8, 4))
        assert found.bounds["fp8"].weight_bytes < found.bounds["bf16"].weight_bytes
