"""One linear of a checkpoint, and the ways in which an engine can run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Treatment = Literal[
    "fp8_tensor",  # one scale per weight tensor, one static input scale
    "fp8_tensor_dynamic",  # one scale per weight tensor, input scales made at run time
    "fp8_token",  # a scale per output channel, a dynamic one per token
    "fp8_block",  # a scale per 128 x 128 of the weight, a dynamic one per 128 channels of a token
    "bf16",
    "other",  # quantized in a way that no plan asks for
]
Kind = Literal["linear", "expert", "router", "lm_head"]

WORDS: dict[Treatment, str] = {
    "fp8_tensor": "FP8 per tensor, static",
    "fp8_tensor_dynamic": "FP8 per tensor, dynamic input scales",
    "fp8_token": "FP8 per token",
    "fp8_block": "FP8 per block",
    "bf16": "BF16",
    "other": "another quantization",
}


@dataclass(frozen=True)
class Module:
    """One linear of the files: W is [out_features, in_features].

    `name` is that of its tensor without `.weight`; of routed experts, one each
    (`model.layers.0.mlp.experts.3.w1`). `runtime` is transformers' name: the module, or of stacked
    experts the parameter that it is a slice of. `group` is the fused group. `wanted`: what it
    should run in, None where nobody said.
    """

    name: str
    runtime: str
    group: str
    kind: Kind
    out_features: int
    in_features: int
    wanted: Treatment | None = None
