"""Names and shapes of scales, as the loaders of each format want them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fp8scope.checkpoint.doctor.examine import examine
from tests.checkpoint.doctor import checkpoints
from tests.checkpoint.doctor.checkpoints import DOWN0, KEPT, Checkpoint, Layout
from tests.checkpoint.doctor.finding import shown, the_error, the_fault

SCALE = f"{DOWN0}.weight_scale"


def blocks(said: dict[str, object]) -> Checkpoint:
    """As DeepSeek has them."""
    checkpoint = checkpoints.healthy("compressed-tensors")
    for name, (rows, columns) in checkpoints.linears().items():
        if name not in {KEPT, "lm_head"}:
            checkpoint.drop(f"{name}.weight", f"{name}.weight_scale")
            weight = torch.randn(4 * rows, 4 * columns) * 0.05
            checkpoint.tensors |= checkpoints.blocks(name, weight)
    checkpoint.config["quantization_config"] = said
    return checkpoint


FP8: dict[str, object] = {
    "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
    "ignored_layers": [KEPT, "lm_head"],
}  # fmt: skip


def renamed(checkpoint: Checkpoint, old: str, new: str) -> Checkpoint:
    checkpoint.tensors = {
        (f"{name.removesuffix(old)}{new}" if name.endswith(old) else name): tensor
        for name, tensor in checkpoint.tensors.items()
    }
    return checkpoint


def test_blocks_of_fp8_have_weight_scale_inv(tmp_path: Path) -> None:
    assert examine(blocks(FP8).write(tmp_path / "good")).faults == ()
    checkpoint = renamed(blocks(FP8), ".weight_scale_inv", ".weight_scale")
    fault = the_error(checkpoint.write(tmp_path / "bad"), "scale-name")
    assert len(fault.where) == 13
    assert "are called weight_scale, and readers of fp8 look for weight_scale_inv" in fault.what


@pytest.mark.parametrize("layout", ["modelopt", "compressed-tensors"])
def test_others_have_weight_scale(tmp_path: Path, layout: Layout) -> None:
    checkpoint = renamed(checkpoints.healthy(layout), ".weight_scale", ".weight_scale_inv")
    fault = the_error(checkpoint.write(tmp_path), "scale-name")
    assert "rename to weight_scale" in fault.remedy


def test_the_input_scales_of_transformers_own_fp8(tmp_path: Path) -> None:
    checkpoint = renamed(checkpoints.healthy(), ".input_scale", ".activation_scale")
    assert "rename to input_scale" in the_error(checkpoint.write(tmp_path), "scale-name").remedy


@pytest.mark.parametrize(
    ("layout", "shape", "room"),
    [
        ("compressed-tensors", (64,), "[64, 1]"),
        ("modelopt", (1, 1), "[] or [1]"),
    ],
)
def test_shapes_that_loaders_refuse(
    tmp_path: Path, layout: Layout, shape: tuple[int, ...], room: str
) -> None:
    checkpoint = checkpoints.healthy(layout)
    checkpoint.tensors[SCALE] = checkpoint.tensors[SCALE].reshape(shape)
    fault = the_error(checkpoint.write(tmp_path), "weight-scale-shape")
    assert fault.where == (SCALE,)
    assert f"readers of {layout} refuse: {list(shape)} of a weight [64, 128]" in fault.what
    assert fault.remedy == f"store it as {layout} has it, here {room}"


def test_blocks_of_four_axes_are_modelopts_alone(tmp_path: Path) -> None:
    checkpoint = blocks(FP8)
    checkpoint.each(".weight_scale_inv", lambda s: s[:, None, :, None])
    fault = the_error(checkpoint.write(tmp_path), "weight-scale-shape")
    assert len(fault.where) == 13
    assert "readers of fp8 refuse" in fault.what


@pytest.mark.parametrize("form", ["fp8", "fbgemm_fp8"])
def test_an_output_layer_in_fp8(tmp_path: Path, form: str) -> None:
    if form == "fp8":
        checkpoint = checkpoints.healthy()
        checkpoint.metadata = None
        checkpoint.drop(".k_scale", ".v_scale")
        said = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": [KEPT]}
        checkpoint.linear("lm_head", weight=torch.randn(96, 64))
    else:
        checkpoint = checkpoints.healthy("compressed-tensors")
        said = {"quant_method": "fbgemm_fp8", "modules_to_not_convert": [KEPT]}
        checkpoint.tensors |= checkpoints.per_channel("lm_head", torch.randn(96, 64))
    checkpoint.config["quantization_config"] = said
    fault = the_error(checkpoint.write(tmp_path), "head-quantized")
    assert fault.where == ("lm_head",)


@pytest.mark.parametrize("layout", ["modelopt", "compressed-tensors"])
def test_an_output_layer_that_engines_do_run(tmp_path: Path, layout: Layout) -> None:
    """vLLM makes ModelOpt's and compressed-tensors' linears of output layers too."""
    checkpoint = checkpoints.healthy(layout)
    if layout == "modelopt":
        checkpoint.linear("lm_head", weight=torch.randn(96, 64))
    else:
        checkpoint.tensors |= checkpoints.per_channel("lm_head", torch.randn(96, 64))
    checkpoint.ignore([KEPT])
    found = examine(checkpoint.write(tmp_path))
    assert found.faults == (), shown(found)


def test_blocks_that_a_fused_layer_cuts(tmp_path: Path) -> None:
    """vLLM: "Weight output_partition_size = 192 is not divisible by … block_n = 128"."""
    name = "model.layers.1.mlp.gate_proj"
    checkpoint = blocks(FP8)
    for each in (name, "model.layers.1.mlp.up_proj"):
        checkpoint.drop(f"{each}.weight_scale_inv")
        checkpoint.tensors |= checkpoints.blocks(each, torch.randn(192, 256))
    fault = the_fault(checkpoint.write(tmp_path), "blocks-unaligned")
    assert (fault.severity, fault.where) == ("warning", (name,))
