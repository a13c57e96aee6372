"""What is healthy is called so, whoever made it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fp8scope.checkpoint.doctor.examine import examine
from fp8scope.errors import BadInput
from tests.checkpoint.doctor import checkpoints
from tests.checkpoint.doctor.checkpoints import Layout
from tests.checkpoint.doctor.finding import shown


@pytest.mark.parametrize("layout", ["modelopt", "compressed-tensors"])
@pytest.mark.parametrize("shards", [1, 3])
def test_healthy(tmp_path: Path, layout: Layout, shards: int) -> None:
    found = examine(checkpoints.healthy(layout).write(tmp_path / "c", shards=shards))
    assert found.faults == (), shown(found)
    assert found.healthy
    fp8 = "fp8_tensor" if layout == "modelopt" else "fp8_token"
    assert found.linears == {fp8: 13, "bf16": 2}
    assert found.nbytes > 50_000
    if layout == "modelopt":
        assert found.metadata == ("modelopt in config.json", "modelopt in hf_quant_config.json")
        assert (found.kv_cache.declared, found.kv_cache.k_scales, found.kv_cache.v_scales) == (
            "fp8", 2, 2,
        )  # fmt: skip


def test_experts(tmp_path: Path) -> None:
    found = examine(checkpoints.moe().write(tmp_path / "c"))
    assert found.faults == (), shown(found)
    assert found.linears["fp8_tensor"] == 13 - 3 + 12


def test_blocks_as_deepseek_stores_them(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    for name, (rows, columns) in checkpoints.linears().items():
        if name != "lm_head":
            checkpoint.drop(f"{name}.weight", f"{name}.weight_scale")
            weight = torch.randn(4 * rows, 4 * columns) * 0.05
            checkpoint.tensors |= checkpoints.blocks(name, weight)
    checkpoint.tensors["model.layers.0.eh_proj.weight"] = torch.ones(64, 64)
    checkpoint.tensors["model.layers.0.mlp.gate.weight"] = torch.ones(16, 64)
    checkpoint.config["quantization_config"] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    }
    found = examine(checkpoint.write(tmp_path / "c"))
    assert found.faults == (), shown(found)
    assert found.linears["fp8_block"] == 14


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        examine(tmp_path / "absent")
    with pytest.raises(BadInput, match="holds no checkpoint"):
        examine(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BadInput, match=r"model.safetensors is a file"):
        examine(tmp_path / "model.safetensors")


def test_a_model_in_bf16(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.tensors = {"lm_head.weight": torch.ones(32, 32).bfloat16()}
    checkpoint.config.pop("quantization_config")
    checkpoint.metadata = None
    with pytest.raises(BadInput, match=r"nothing here is FP8.*1 tensors in BF16"):
        examine(checkpoint.write(tmp_path / "c"))
