"""Faults in scales and weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tests.checkpoint.doctor.zoo.corruptions import (
    ATTENTION,
    MLP,
    Planted,
    coded,
    edited,
    put,
    scale,
)
from tests.checkpoint.doctor.zoo.editing import plain

NAN = float("nan")


def doubled(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Twice the values, saturated at 448."""
    more = np.minimum((codes & 0x7F) + 8, 0x7E)
    return np.where(codes & 0x7F > 7, more | (codes & 0x80), codes).astype(np.uint8)


VALUES = (
    Planted(
        "a weight's scale is NaN", "llm-compressor-static",
        scale(f"{MLP}.up_proj.weight_scale", lambda v: v * NAN),
        "scale-nan", f"{MLP}.up_proj.weight_scale",
    ),
    Planted(
        "an input's scale is infinite", "autofp8-static-kv",
        scale("layers.1.self_attn.o_proj.input_scale", lambda v: v + np.inf),
        "scale-inf", "model.layers.1.self_attn.o_proj.input_scale",
    ),
    Planted(
        "one block's scale is NaN", "transformers-block",
        scale("q_proj.weight_scale_inv", lambda v: put(v, 1, NAN)),
        "scale-nan", f"{ATTENTION}.q_proj.weight_scale_inv",
    ),
    Planted(
        "one channel's scale is zero", "fbgemm",
        scale("down_proj.weight_scale", lambda v: put(v, 7, 0.0)),
        "scale-zero", f"{MLP}.down_proj.weight_scale",
    ),
    Planted(
        "scales are negative", "deepseek-v3-block",
        scale("experts.1.up_proj.weight_scale_inv", lambda v: -v),
        "scale-negative", f"{MLP}.experts.1.up_proj.weight_scale_inv",
    ),
    Planted(
        "an input's scale is all but zero", "modelopt-phi3",
        scale("qkv_proj.input_scale", lambda v: v * 0 + 1e-20),
        "scale-tiny", f"{ATTENTION}.qkv_proj.input_scale",
    ),
    Planted(
        "scales are reciprocals: 448 / amax", "autofp8-static-kv",
        scale(".weight_scale", lambda v: 1 / v),
        "scale-huge", f"{ATTENTION}.q_proj.weight_scale",
    ),
    Planted(
        "block scales are reciprocals, as `_inv` suggests", "deepseek-v3-block",
        scale(".weight_scale_inv", lambda v: 1 / v),
        "scale-huge", f"{MLP}.experts.0.down_proj.weight_scale_inv",
    ),
    Planted(
        "SmoothQuant left one input scale per channel", "modelopt-fp8-kv",
        scale("layers.0.mlp.down_proj.input_scale", lambda v: np.full(96, v)),
        "input-scale-vector", f"{MLP}.down_proj.input_scale",
    ),
    Planted(
        "one input scale per channel", "autofp8-static-kv",
        scale("layers.1.mlp.up_proj.input_scale", lambda v: np.full(64, v)),
        "input-scale-vector", "model.layers.1.mlp.up_proj.input_scale",
    ),
    Planted(
        "a channel's scales lie on the wrong side", "llm-compressor-dynamic",
        scale("up_proj.weight_scale", lambda v: v.T),
        "weight-scale-shape", f"{MLP}.up_proj.weight_scale",
    ),
    Planted(
        "a block scale is transposed", "transformers-block",
        scale("q_proj.weight_scale_inv", lambda v: v.T),
        "weight-scale-shape", f"{ATTENTION}.q_proj.weight_scale_inv",
    ),
    Planted(
        "scales are for other rows", "fbgemm",
        scale("up_proj.weight_scale", lambda v: v[:64]),
        "weight-scale-shape", f"{MLP}.up_proj.weight_scale",
    ),
    Planted(
        "channels' scales lie flat, as ModelOpt writes them", "llm-compressor-dynamic",
        scale(".weight_scale", lambda v: v.reshape(-1)),
        "weight-scale-shape", f"{MLP}.up_proj.weight_scale",
    ),
    Planted(
        "channels' scales stand in a column, as others write them",
        "modelopt-per-channel-per-token",
        scale(".weight_scale", lambda v: v[:, None]),
        "weight-scale-shape", f"{MLP}.up_proj.weight_scale",
    ),
    Planted(
        "blocks' scales in two dimensions, as others write them", "modelopt-block",
        scale(".weight_scale", lambda v: v[:, 0, :, 0]),
        "weight-scale-shape", f"{MLP}.up_proj.weight_scale",
    ),
    Planted(
        "a weight holds NaN", "llm-compressor-block",
        coded(f"{MLP}.gate_proj", lambda codes: np.where(codes == codes[0, 0], 0x7F, codes)),
        "fp8-nan", f"{MLP}.gate_proj.weight",
    ),
    Planted(
        "a weight is all zeros", "fbgemm",
        coded(f"{MLP}.down_proj", lambda codes: codes * 0),
        "fp8-zero", f"{MLP}.down_proj",
    ),
    Planted(
        "a norm holds NaN", "llm-compressor-static",
        scale("layers.0.input_layernorm.weight", lambda v: put(v, 3, NAN)),
        "tensor-not-finite", "model.layers.0.input_layernorm.weight",
    ),
    Planted(
        "half the scale that the weight needs", "llm-compressor-dynamic",
        coded(f"{MLP}.down_proj", doubled),
        "fp8-clipped", f"{MLP}.down_proj",
    ),
    Planted(
        "256 times the scale that the weight needs", "fbgemm",
        coded(f"{MLP}.down_proj", lambda codes: np.where(codes & 0x7F > 64, codes - 64, 0)),
        "fp8-range-unused", f"{MLP}.down_proj", (), "warning",
    ),
)  # fmt: skip

SCALES = (
    Planted(
        "one input scale is gone", "autofp8-static-kv",
        edited(lambda c: c.drop("layers.1.mlp.down_proj.input_scale")),
        "input-scale-missing", "model.layers.1.mlp.down_proj",
    ),
    Planted(
        "never calibrated", "llm-compressor-static",
        edited(lambda c: c.drop("input_scale")),
        "input-scale-missing", f"{ATTENTION}.q_proj",
    ),
    Planted(
        "never calibrated", "modelopt-fp8-excluded",
        edited(lambda c: c.drop("input_scale")),
        "input-scale-missing", f"{MLP}.up_proj",
    ),
    Planted(
        "an expert without its input scale", "modelopt-mixtral",
        edited(lambda c: c.drop("experts.2.w3.input_scale")),
        "input-scale-missing", "model.layers.0.block_sparse_moe.experts.2.w3",
    ),
    Planted(
        "an input scale that is not to be there", "llm-compressor-dynamic",
        edited(lambda c: c.tensors.update({f"{MLP}.up_proj.input_scale": plain([0.01])})),
        "input-scale-unexpected", f"{MLP}.up_proj", (), "warning",
    ),
    Planted(
        "one weight scale is gone", "fbgemm",
        edited(lambda c: c.drop("gate_proj.weight_scale")),
        "weight-scale-missing", f"{MLP}.gate_proj",
    ),
    Planted(
        "block scales by the name of others", "deepseek-v3-block",
        edited(lambda c: c.rename(".weight_scale_inv", ".weight_scale")),
        "scale-name", f"{MLP}.experts.0.down_proj",
    ),
    Planted(
        "scales of a layer that is not there", "llm-compressor-kv",
        edited(lambda c: c.tensors.update({"model.layers.7.mlp.up_proj.weight_scale": plain([1])})),
        "scale-orphan", "model.layers.7.mlp.up_proj.weight_scale",
    ),
    Planted(
        "AWQ's scales, which no engine applies", "modelopt-fp8-kv",
        edited(lambda c: c.tensors.update({f"{MLP}.up_proj.pre_quant_scale": plain([1.5] * 64)})),
        "pre-quant-scale", f"{MLP}.up_proj.pre_quant_scale",
    ),
    Planted(
        "the KV cache was never calibrated", "llm-compressor-kv",
        scale(".self_attn.k_scale", lambda v: v * 0 + 1),
        "kv-scale-unity", f"{ATTENTION}.k_scale", (), "warning",
    ),
    Planted(
        "KV scales of one", "modelopt-fp8-kv",
        edited(lambda c: c.scale(lambda v: v * 0 + 1, "k_scale", "v_scale")),
        "kv-scale-unity", f"{ATTENTION}.v_proj.v_scale", (), "warning",
    ),
    Planted(
        "KV scales of one", "autofp8-static-kv",
        scale(".output_scale", lambda v: v * 0 + 1),
        "kv-scale-unity", f"{ATTENTION}.k_proj.output_scale", (), "warning",
    ),
    Planted(
        "one V scale is gone", "modelopt-fp8-kv",
        edited(lambda c: c.drop("layers.1.self_attn.v_proj.v_scale")),
        "kv-half", "model.layers.1.self_attn",
    ),
    Planted(
        "no KV scale, though the metadata says so", "llm-compressor-kv",
        edited(lambda c: c.drop(".k_scale", ".v_scale")),
        "kv-scales-missing", ATTENTION, (), "warning",
    ),
)  # fmt: skip
