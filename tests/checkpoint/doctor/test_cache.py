"""Faults of the KV cache's scales."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fp8scope.checkpoint.doctor.examine import examine
from tests.checkpoint.doctor import checkpoints
from tests.checkpoint.doctor.finding import the_error, the_fault

K1 = "model.layers.1.self_attn.k_proj.k_scale"
V1 = "model.layers.1.self_attn.v_proj.v_scale"
LAYER1 = "model.layers.1.self_attn"


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_broken_scales(tmp_path: Path, value: float) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.tensors[K1] = torch.tensor(value)
    the_error(checkpoint.write(tmp_path), "kv-scale-invalid", [K1])


def test_a_huge_scale(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.tensors[K1] = torch.tensor(90.0)
    the_error(checkpoint.write(tmp_path), "kv-scale-huge", [K1])


def test_scales_of_one(tmp_path: Path) -> None:
    """As ModelOpt's old exports and vLLM's own default have them."""
    checkpoint = checkpoints.healthy()
    checkpoint.each(".k_scale", torch.ones_like)
    checkpoint.each(".v_scale", torch.ones_like)
    fault = the_fault(checkpoint.write(tmp_path), "kv-scale-unity", [K1, V1])
    assert fault.severity == "warning"
    assert len(fault.where) == 4


@pytest.mark.parametrize("lacking", [K1, V1])
def test_keys_without_values(tmp_path: Path, lacking: str) -> None:
    checkpoint = checkpoints.healthy()
    del checkpoint.tensors[lacking]
    the_error(checkpoint.write(tmp_path), "kv-half", {K1, V1} - {lacking})


def test_a_latent_has_one_scale(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.drop(".v_scale")
    checkpoint.config["kv_lora_rank"] = 16
    assert examine(checkpoint.write(tmp_path)).faults == ()


def test_a_layer_without_scales(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.drop(K1, V1)
    the_error(checkpoint.write(tmp_path), "kv-scales-incomplete", [LAYER1])


def test_no_scales(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.drop(".k_scale", ".v_scale")
    fault = the_fault(checkpoint.write(tmp_path), "kv-scales-missing", [LAYER1])
    assert fault.severity == "warning"
    assert "engines take 1" in fault.remedy


def test_scales_that_nothing_declares(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    assert checkpoint.metadata is not None
    checkpoint.metadata["quantization"]["kv_cache_quant_algo"] = None
    del checkpoint.quantization["kv_cache_scheme"]
    fault = the_fault(checkpoint.write(tmp_path), "kv-undeclared", [K1, V1])
    assert fault.severity == "warning"


def test_the_names_of_compressed_tensors(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    checkpoint.tensors |= {
        f"model.layers.{n}.self_attn.{k}_scale": torch.tensor([0.02]) for n in (0, 1) for k in "kv"
    }
    checkpoint.quantization["kv_cache_scheme"] = {
        "type": "float", "num_bits": 8, "dynamic": False, "strategy": "tensor", "symmetric": True,
    }  # fmt: skip
    found = examine(checkpoint.write(tmp_path / "good"))
    assert found.faults == ()
    assert (found.kv_cache.k_scales, found.kv_cache.v_scales) == (2, 2)
    del checkpoint.tensors["model.layers.1.self_attn.v_scale"]
    the_error(checkpoint.write(tmp_path / "bad"), "kv-half", ["model.layers.1.self_attn.k_scale"])
