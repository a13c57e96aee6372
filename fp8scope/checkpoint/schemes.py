"""Words of checkpoint metadata that several consumers share: algorithms and schemes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8scope.core.modules import Treatment

# ModelOpt's `quant_algo`
ALGORITHMS: dict[str, Treatment] = {
    "FP8": "fp8_tensor",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8_token",
    "FP8_PB_WO": "fp8_block",
}
ALGORITHM_OF: dict[Treatment, str] = {
    "fp8_tensor": "FP8",
    "fp8_token": "FP8_PER_CHANNEL_PER_TOKEN",
    "fp8_block": "fp8_pb_wo",  # as ModelOpt writes it, and the one case that TensorRT-LLM knows
}

# compressed-tensors' arguments, with those defaults left out that all its readers share
_FLOAT8: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True}
SCHEMES: dict[Treatment, dict[str, dict[str, Any]]] = {
    "fp8_tensor": {
        "weights": {**_FLOAT8, "strategy": "tensor", "dynamic": False},
        "input_activations": {**_FLOAT8, "strategy": "tensor", "dynamic": False},
    },
    "fp8_tensor_dynamic": {
        "weights": {**_FLOAT8, "strategy": "tensor", "dynamic": False},
        "input_activations": {**_FLOAT8, "strategy": "token", "dynamic": True},
    },
    "fp8_token": {
        "weights": {**_FLOAT8, "strategy": "channel", "dynamic": False},
        "input_activations": {**_FLOAT8, "strategy": "token", "dynamic": True},
    },
    "fp8_block": {
        "weights": {
            **_FLOAT8,
            "strategy": "block",
            "block_structure": [128, 128],
            "dynamic": False,
        },
        "input_activations": {
            **_FLOAT8,
            "strategy": "group",
            "group_size": 128,
            "dynamic": True,
        },
    },
}

# strategies of weights and inputs, and whether input scales are made at run time
_PAIRS: dict[tuple[str, str, bool], Treatment] = {
    ("tensor", "tensor", False): "fp8_tensor",
    ("tensor", "tensor", True): "fp8_tensor_dynamic",
    ("tensor", "token", True): "fp8_tensor_dynamic",
    ("channel", "token", True): "fp8_token",
    ("block", "group", True): "fp8_block",
}
_BLOCKS = (([128, 128], 128), ("128x128", 128))


def algorithm(name: str) -> Treatment:
    """What ModelOpt's `quant_algo` makes of a linear."""
    return ALGORITHMS.get(name.upper(), "other")


def scheme(weights: Mapping[str, Any] | None, inputs: Mapping[str, Any] | None) -> Treatment:
    """What compressed-tensors' arguments of weights and input activations make of a linear."""
    if weights is None:
        return "bf16" if inputs is None else "other"
    if inputs is None or not (_is_float8(weights) and _is_float8(inputs)):
        return "other"
    dynamic = bool(inputs.get("dynamic", False))
    pair = (strategy(weights), strategy(inputs), dynamic)
    sizes = (weights.get("block_structure"), inputs.get("group_size"))
    if pair == ("block", "group", True) and sizes not in _BLOCKS:
        return "other"
    return _PAIRS.get(pair, "other")


def strategy(arguments: Mapping[str, Any]) -> str:
    """That of compressed-tensors' arguments, which may leave it to the group size to say."""
    if (said := arguments.get("strategy")) is not None:
        return str(said).lower()
    size = arguments.get("group_size")
    return "tensor" if size is None else "channel" if size == -1 else "group"


def _is_float8(arguments: Mapping[str, Any]) -> bool:
    kind = str(arguments.get("type", "int")).lower()
    return (kind, arguments.get("num_bits", 8)) == ("float", 8)
