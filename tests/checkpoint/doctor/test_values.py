"""Faults that show in the values of weights and scales: each is planted, and named alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fp8scope.checkpoint.doctor.examine import examine
from tests.checkpoint.doctor import checkpoints
from tests.checkpoint.doctor.checkpoints import DOWN0, Checkpoint, Layout
from tests.checkpoint.doctor.finding import shown, the_error, the_fault

LAYOUTS: list[Layout] = ["modelopt", "compressed-tensors"]
O0 = "model.layers.0.self_attn.o_proj"
O1 = "model.layers.1.self_attn.o_proj"
NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture(params=LAYOUTS)
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return checkpoints.healthy(request.param)


def with_code(weight: Tensor, at: tuple[int, int], code: int) -> Tensor:
    codes = weight.view(torch.uint8).clone()
    codes[at] = code
    return codes.view(torch.float8_e4m3fn)


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_nan_codes(checkpoint: Checkpoint, tmp_path: Path, code: int) -> None:
    name = f"{DOWN0}.weight"
    checkpoint.tensors[name] = with_code(checkpoint.tensors[name], (3, 5), code)
    fault = the_error(checkpoint.write(tmp_path), "fp8-nan", [name])
    assert fault.what.endswith("holds 1 NaN code")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_norm_that_is_not_finite(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.tensors[NORM] = torch.ones(64, dtype=dtype)
    checkpoint.tensors[NORM][7] = value
    the_error(checkpoint.write(tmp_path), "tensor-not-finite", [NORM])


def test_an_fp8_weight_of_zeros(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.each(f"{DOWN0}.weight", lambda w: torch.zeros(w.shape).to(w.dtype))
    the_error(checkpoint.write(tmp_path), "fp8-zero", [DOWN0])


def test_a_norm_of_zeros(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.each(NORM, torch.zeros_like)
    the_error(checkpoint.write(tmp_path), "norm-zero", [NORM])


def test_norms_that_multiply_by_one_plus_zero(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.each("layernorm.weight", torch.zeros_like)
    checkpoint.config["model_type"] = "gemma2"
    assert examine(checkpoint.write(tmp_path)).faults == ()


def test_a_scale_that_clips(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.each(
        f"{DOWN0}.weight", lambda w: (4 * w.float()).clamp(-448, 448).to(torch.float8_e4m3fn)
    )
    the_error(checkpoint.write(tmp_path), "fp8-clipped", [DOWN0])


@pytest.mark.parametrize("shape", ["normal", "uniform", "laplace", "student"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_honest_scale_clips(tmp_path: Path, shape: str, layout: Layout) -> None:
    torch.manual_seed(1)
    values = {
        "normal": torch.randn(64, 128),
        "uniform": torch.rand(64, 128) - 0.5,
        "laplace": torch.distributions.Laplace(0.0, 1.0).sample((64, 128)),
        "student": torch.distributions.StudentT(3.0).sample((64, 128)),
    }
    checkpoint = checkpoints.healthy(layout)
    make = checkpoints.quantized if layout == "modelopt" else checkpoints.per_channel
    checkpoint.tensors |= make(DOWN0, values[shape])
    found = examine(checkpoint.write(tmp_path))
    assert found.faults == (), shown(found)


def test_codes_that_leave_the_range_unused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.each(f"{DOWN0}.weight", lambda w: (w.float() / 16).to(w.dtype))
    fault = the_fault(checkpoint.write(tmp_path), "fp8-range-unused", [DOWN0])
    assert fault.severity == "warning"
    assert "above 28 of 448" in fault.what


def test_a_shard_under_a_scale_that_it_shares(tmp_path: Path) -> None:
    """As engines want it, and as a build makes it: the largest of q, k and v for all."""
    checkpoint = checkpoints.healthy()
    at = "model.layers.0.self_attn"
    checkpoint.tensors[f"{at}.k_proj.weight"] = (
        checkpoint.tensors[f"{at}.k_proj.weight"].float() / 8
    ).to(torch.float8_e4m3fn)
    shared = checkpoint.tensors[f"{at}.q_proj.weight_scale"]
    checkpoint.tensors |= {f"{at}.{n}_proj.weight_scale": shared.clone() for n in "qkv"}
    assert examine(checkpoint.write(tmp_path)).faults == ()


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e4m3fnuz])
def test_other_formats_of_fp8(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.each(f"{DOWN0}.weight", lambda w: (w.float() / 4).to(dtype))
    the_error(checkpoint.write(tmp_path), "fp8-format", [DOWN0])


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("scale-nan", math.nan),
        ("scale-inf", math.inf),
        ("scale-zero", 0.0),
        ("scale-negative", -0.01),
    ],
)
def test_broken_weight_scales(
    checkpoint: Checkpoint, tmp_path: Path, code: str, value: float
) -> None:
    name = f"{DOWN0}.weight_scale"
    checkpoint.each(name, lambda s: s.reshape(-1).index_fill(0, torch.tensor(0), value).view_as(s))
    the_error(checkpoint.write(tmp_path), code, [name])


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("scale-nan", math.nan),
        ("scale-inf", math.inf),
        ("scale-zero", 0.0),
        ("scale-negative", -0.01),
        ("scale-tiny", 1e-39),
        ("scale-tiny", 1e-12),
        ("scale-huge", 5000.0),
    ],
)
def test_broken_input_scales(tmp_path: Path, code: str, value: float) -> None:
    checkpoint = checkpoints.healthy()
    name = f"{DOWN0}.input_scale"
    checkpoint.tensors[name] = torch.tensor(value)
    the_error(checkpoint.write(tmp_path), code, [name])


def test_a_tiny_weight_scale(checkpoint: Checkpoint, tmp_path: Path) -> None:
    name = f"{DOWN0}.weight_scale"
    checkpoint.each(name, lambda s: torch.full_like(s, 1e-20))
    the_error(checkpoint.write(tmp_path), "scale-tiny", [name])


def test_one_channel_of_zeros_may_have_a_tiny_scale(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    checkpoint.tensors[f"{DOWN0}.weight_scale"][3] = 1e-12
    assert examine(checkpoint.write(tmp_path)).faults == ()


def test_an_inverted_weight_scale(checkpoint: Checkpoint, tmp_path: Path) -> None:
    name = f"{DOWN0}.weight_scale"
    checkpoint.each(name, lambda s: 1 / s)
    assert "not its inverse" in the_error(checkpoint.write(tmp_path), "scale-huge", [name]).remedy


def test_a_large_weight_scale_is_no_error(tmp_path: Path) -> None:
    """A row of thousands, planted or learnt, is bad for the rest of its weight, and yet right."""
    checkpoint = checkpoints.healthy()
    name = f"{DOWN0}.weight_scale"
    checkpoint.tensors[name] = torch.tensor(13.6)
    found = examine(str(checkpoint.write(tmp_path)))
    assert [(fault.code, fault.where) for fault in found.warnings] == [("scale-large", (name,))]
    assert found.healthy


def test_inverted_input_scales(tmp_path: Path) -> None:
    """448 / amax is nothing unusual for one layer, but for all of them."""
    checkpoint = checkpoints.healthy()
    checkpoint.each(".input_scale", lambda s: 1 / s)
    fault = the_error(checkpoint.write(tmp_path), "scale-huge")
    assert len(fault.where) == 13


def test_one_layer_of_massive_activations_is_no_fault(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.tensors[f"{DOWN0}.input_scale"] = torch.tensor(60.0)
    assert examine(checkpoint.write(tmp_path)).faults == ()


def test_weight_scales_of_one(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.each(".weight_scale", torch.ones_like)
    fault = the_error(checkpoint.write(tmp_path), "scale-unity")
    assert "13 scales" in fault.what
    assert "never calibrated" in fault.what


def test_input_scales_of_one(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.each(".input_scale", torch.ones_like)
    assert len(the_error(checkpoint.write(tmp_path), "scale-unity").where) == 13


def test_one_input_scale_of_one(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.tensors[f"{O0}.input_scale"] = torch.tensor(1.0)
    fault = the_fault(checkpoint.write(tmp_path), "input-scale-unity", [f"{O0}.input_scale"])
    assert fault.severity == "warning"


def test_an_input_scale_per_channel(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    name = f"{DOWN0}.input_scale"
    checkpoint.tensors[name] = torch.full((128,), 0.02)
    assert "SmoothQuant" in the_error(checkpoint.write(tmp_path), "input-scale-vector", [name]).what


def test_smoothing_factors(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    name = f"{DOWN0}.pre_quant_scale"
    checkpoint.tensors[name] = torch.full((128,), 1.5)
    the_error(checkpoint.write(tmp_path), "pre-quant-scale", [name])


@pytest.mark.parametrize("shape", [(7,), (3, 5), (128,), (64, 2)])
def test_a_weight_scale_of_no_shape(
    checkpoint: Checkpoint, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    name = f"{DOWN0}.weight_scale"
    checkpoint.tensors[name] = torch.full(shape, 0.001)
    the_error(checkpoint.write(tmp_path), "weight-scale-shape", [name])


def test_a_weight_without_a_scale(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.drop(f"{DOWN0}.weight_scale")
    the_error(checkpoint.write(tmp_path), "weight-scale-missing", [DOWN0])


def test_a_missing_input_scale(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.drop(f"{checkpoints.Q0}.input_scale")
    the_error(checkpoint.write(tmp_path), "input-scale-missing", [checkpoints.Q0])


def test_an_input_scale_where_they_are_dynamic(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    name = f"{DOWN0}.input_scale"
    checkpoint.tensors[name] = torch.tensor(0.02)
    fault = the_fault(checkpoint.write(tmp_path), "input-scale-unexpected", [name])
    assert fault.severity == "warning"


def test_a_scale_beside_a_bf16_weight(checkpoint: Checkpoint, tmp_path: Path) -> None:
    name = f"{checkpoints.KEPT}.weight_scale"
    checkpoint.tensors[name] = torch.tensor(0.01)
    the_error(checkpoint.write(tmp_path), "scale-of-bf16", [name])


@pytest.mark.parametrize("part", ["weight_scale", "input_scale", "weight_scale_inv"])
def test_a_scale_of_nothing(checkpoint: Checkpoint, tmp_path: Path, part: str) -> None:
    name = f"model.layers.0.self_attn.qkv_proj.{part}"
    checkpoint.tensors[name] = torch.tensor(0.01)
    the_error(checkpoint.write(tmp_path), "scale-orphan", [name])


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.float64])
def test_scales_of_a_dtype_that_is_not_taken(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = checkpoints.healthy()
    name = f"{DOWN0}.weight_scale"
    checkpoint.tensors[name] = (checkpoint.tensors[name] + 0.01).to(dtype)
    the_error(checkpoint.write(tmp_path), "scale-dtype", [name])


def test_input_scales_that_differ_within_a_fused_layer(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.tensors[f"{checkpoints.Q0}.input_scale"] = torch.tensor(0.05)
    fault = the_fault(checkpoint.write(tmp_path), "input-scales-differ", [checkpoints.Q0])
    assert fault.severity == "warning"
    assert len(fault.where) == 3


def test_weight_scales_that_are_far_apart_within_a_fused_layer(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.linear(checkpoints.Q0, weight=torch.randn(64, 64) * 5)
    fault = the_fault(checkpoint.write(tmp_path), "weight-scales-apart", [checkpoints.Q0])
    assert fault.severity == "warning"


def test_stacked_experts(tmp_path: Path) -> None:
    """Three-dimensional weights, with a scale per expert and channel of either side."""
    checkpoint = checkpoints.healthy("compressed-tensors")
    at = "model.layers.0.feed_forward.experts"
    codes = (torch.randn(4, 64, 128) * 60).clamp(-448, 448)
    codes[:, 0, :] = 448
    for name, scale in (
        ("gate_up_proj", torch.full((4, 1, 128), 0.001)),
        ("down_proj", torch.full((4, 64), 0.001)),
    ):
        checkpoint.tensors |= {
            f"{at}.{name}": codes.to(torch.float8_e4m3fn),
            f"{at}.{name}_scale": scale,
        }
    found = examine(checkpoint.write(tmp_path))
    assert found.faults == (), shown(found)
    assert found.linears["fp8_token"] == 13 + 2


def test_nan_in_the_scales_of_stacked_experts(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    name = "model.layers.0.feed_forward.experts.down_proj"
    checkpoint.tensors |= {
        name: (torch.randn(4, 64, 128) * 90).clamp(-448, 448).to(torch.float8_e4m3fn),
        f"{name}_weight_scale": torch.tensor([0.1, math.nan, 0.1, 0.1]),
        f"{name}_input_scale": torch.tensor(0.1),
    }
    fault = the_error(checkpoint.write(tmp_path), "scale-nan")
    assert fault.where == (f"{name}_weight_scale",)
