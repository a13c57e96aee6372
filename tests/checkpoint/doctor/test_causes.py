"""One cause gives one error: what follows from it is left out, and what it says is meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fp8scope.checkpoint.doctor.examine import examine
from tests.checkpoint.doctor import checkpoints
from tests.checkpoint.doctor.checkpoints import INDEX, KEPT
from tests.checkpoint.doctor.finding import shown, the_error

AT = "model.layers.0.self_attn"
K0 = f"{AT}.k_proj"
EXPERT = "model.layers.0.mlp.experts.2.up_proj"


def codes(folder: Path) -> list[str]:
    return [fault.code for fault in examine(folder).faults]


def test_a_shard_without_its_scale_is_not_also_split(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    del checkpoint.tensors[f"{K0}.weight_scale"]
    assert the_error(checkpoint.write(tmp_path), "weight-scale-missing").where == (K0,)


def test_an_expert_without_its_scales_is_not_also_split(tmp_path: Path) -> None:
    checkpoint = checkpoints.moe()
    del checkpoint.tensors[f"{EXPERT}.weight_scale"]
    assert codes(checkpoint.write(tmp_path / "weight")) == ["weight-scale-missing"]
    checkpoint = checkpoints.moe()
    del checkpoint.tensors[f"{EXPERT}.input_scale"]
    assert codes(checkpoint.write(tmp_path / "input")) == ["input-scale-missing"]


def test_a_shard_with_a_misshapen_scale_is_not_also_split(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.tensors[f"{K0}.weight_scale"] = torch.full((7,), 0.001)
    fault = the_error(checkpoint.write(tmp_path), "weight-scale-shape")
    assert fault.where == (f"{K0}.weight_scale",)
    assert "fits no granularity: [7] of a weight [64, 64]" in fault.what


def test_a_scale_in_a_shard_that_is_missing(tmp_path: Path) -> None:
    """All that lies there is named for the shard."""
    checkpoint = checkpoints.healthy()
    names = [f"{K0}.weight_scale", f"{AT}.o_proj.input_scale", f"{AT}.q_proj.weight"]
    last = {name: checkpoint.tensors.pop(name) for name in names}
    rest, checkpoint.tensors = checkpoint.tensors, {}
    for name, tensor in zip(rest, rest.values(), strict=True):
        checkpoint.tensors[name] = tensor
    folder = checkpoint.write(tmp_path, shards=1)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = dict.fromkeys(rest, "model-00001-of-00002.safetensors")
    weight_map |= dict.fromkeys(last, "model-00002-of-00002.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert codes(folder) == ["shard-missing"]


def test_a_shard_in_bf16_is_split_and_not_also_unlisted(tmp_path: Path) -> None:
    """To list it, as the other remedy would have it, leaves the layer split."""
    checkpoint = checkpoints.healthy()
    checkpoint.drop(f"{K0}.weight_scale", f"{K0}.input_scale")
    checkpoint.linear(K0, fp8=False)
    fault = the_error(checkpoint.write(tmp_path), "fused-split", [K0])
    says = (
        f"{AT} is run with its shards fused, and k_proj is BF16; q_proj, v_proj are FP8 per tensor"
    )
    assert says in fault.what
    assert "list" not in fault.remedy


def test_scales_beside_bf16_say_what_the_metadata_wants(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.tensors[f"{K0}.weight"] = torch.randn(64, 64).bfloat16()
    fault = the_error(checkpoint.write(tmp_path / "said"), "scale-of-bf16")
    assert fault.remedy.startswith("store those weights in FP8, as the metadata says")
    checkpoint = checkpoints.healthy()
    checkpoint.tensors[f"{KEPT}.weight_scale"] = torch.tensor(0.01)
    fault = the_error(checkpoint.write(tmp_path / "listed"), "scale-of-bf16")
    assert fault.remedy.startswith("delete the scales")


@pytest.mark.parametrize("damage", ["{", None])
def test_metadata_is_not_missed_where_config_json_is(tmp_path: Path, damage: str | None) -> None:
    folder = checkpoints.healthy("compressed-tensors").write(tmp_path)
    (folder / "config.json").unlink()
    if damage is not None:
        (folder / "config.json").write_text(damage)
    assert codes(folder) == ["config-missing" if damage is None else "config-unreadable"]


def test_an_empty_config_does_lack_metadata(tmp_path: Path) -> None:
    folder = checkpoints.healthy("compressed-tensors").write(tmp_path)
    (folder / "config.json").write_text("{}")
    assert codes(folder) == ["metadata-missing"]


def test_broken_metadata_are_not_called_absent(tmp_path: Path) -> None:
    folder = checkpoints.healthy().write(tmp_path)
    (folder / "hf_quant_config.json").write_text("{")
    assert codes(folder) == ["metadata-unreadable"]
    (folder / "hf_quant_config.json").unlink()
    assert codes(folder) == ["metadata-one-file"]


def test_codes_as_bytes_are_neither_split_nor_plain(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    for name in (f"{K0}.weight", f"{checkpoints.DOWN0}.weight"):
        checkpoint.tensors[name] = checkpoint.tensors[name].view(torch.uint8)
    fault = the_error(checkpoint.write(tmp_path), "fp8-format")
    assert set(fault.where) == {K0, checkpoints.DOWN0}
    assert "2 weights" in fault.what
    assert "in U8, which is not E4M3" in fault.what
    assert "save the codes as F8_E4M3" in fault.remedy


def test_bytes_that_are_meant_as_bytes(tmp_path: Path) -> None:
    """NVFP4 beside an FP8 KV cache: two codes in a byte, and scales in E4M3."""
    checkpoint = checkpoints.healthy()
    for name in (n for n in checkpoints.linears() if n not in {KEPT, "lm_head"}):
        rows, columns = checkpoint.tensors[f"{name}.weight"].shape
        packed = torch.randint(0, 255, (rows, columns // 2), dtype=torch.uint8)
        checkpoint.tensors[f"{name}.weight"] = packed
        checkpoint.tensors[f"{name}.weight_scale"] = torch.ones(rows, columns // 16).to(
            torch.float8_e4m3fn
        )
    checkpoint.quantization["quant_algo"] = "NVFP4"
    assert checkpoint.metadata is not None
    checkpoint.metadata["quantization"]["quant_algo"] = "NVFP4"
    found = examine(checkpoint.write(tmp_path))
    assert found.faults == (), shown(found)
    assert found.linears["other"] == 13


def test_codes_under_scales_of_a_layout_that_is_not_read(tmp_path: Path) -> None:
    """MXFP8: E4M3 with a power of two for every 32 values, stored as bytes."""
    checkpoint = checkpoints.healthy()
    checkpoint.drop(".input_scale")
    for name in (n for n in checkpoints.linears() if n not in {KEPT, "lm_head"}):
        rows, columns = checkpoint.tensors[f"{name}.weight"].shape
        scales = torch.full((rows, columns // 32), 118, dtype=torch.uint8)
        checkpoint.tensors[f"{name}.weight_scale"] = scales
    checkpoint.quantization["quant_algo"] = "MXFP8"
    assert checkpoint.metadata is not None
    checkpoint.metadata["quantization"]["quant_algo"] = "MXFP8"
    found = examine(checkpoint.write(tmp_path))
    assert found.faults == (), shown(found)


@pytest.mark.parametrize(
    ("end", "remedy"), [("weight_scale", "quantize the weight again"), ("input_scale", "calibrate")]
)
def test_weights_are_quantized_again_and_inputs_calibrated(
    tmp_path: Path, end: str, remedy: str
) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.tensors[f"{K0}.{end}"] = torch.tensor(float("nan"))
    assert the_error(checkpoint.write(tmp_path), "scale-nan").remedy.startswith(remedy)


def test_a_scheme_that_differs_names_the_size_of_blocks(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    for name, (rows, columns) in checkpoints.linears().items():
        if name not in {KEPT, "lm_head"}:
            checkpoint.drop(f"{name}.weight", f"{name}.weight_scale")
            weight = torch.randn(4 * rows, 4 * columns) * 0.05
            checkpoint.tensors |= checkpoints.blocks(name, weight)
    checkpoint.config["quantization_config"] = {
        "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [64, 64],
        "modules_to_not_convert": [KEPT, "lm_head"],
    }  # fmt: skip
    fault = the_error(checkpoint.write(tmp_path), "scheme-differs")
    assert len(fault.where) == 13
    assert "stored per block of 128 x 128, and config.json says per block of 64 x 64" in fault.what
