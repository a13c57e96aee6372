"""ModelOpt's metadata of a finished checkpoint, which vLLM, SGLang and TensorRT-LLM read.

It stands in two places, and engines disagree on which to believe, so both are written to say the
same: nested in hf_quant_config.json, flat as `quantization_config` in config.json. Names are the
files'. Experts in BF16 are named one by one and together: SGLang compares with `…experts` alone,
which the lists of vLLM and TensorRT-LLM take as well.
"""

from __future__ import annotations

import json
from typing import Any

from fp8scope.checkpoint.schemes import ALGORITHM_OF
from fp8scope.core.modules import Model
from fp8scope.export.consumer import SAYS, CannotExpress, Consumer, Document, Form
from fp8scope.export.refusals import refuse

MIXED = "MIXED_PRECISION"
NEAREST = "ModelOpt knows FP8 per tensor with static scales, per token and per block"


def write(model: Model) -> Document:
    """Nested and flat. Raises CannotExpress for what `quant_algo` has no word for."""
    refuse("ModelOpt's metadata", model, ALGORITHM_OF, NEAREST)
    if experts := [m.name for m in model.in_treatment("fp8_token") if m.kind == "expert"]:
        what = f"no engine reads experts per token from ModelOpt's metadata ({experts[0]})"
        raise CannotExpress(what, "--to compressed-tensors, or plan experts per tensor")
    algorithms = {
        module.name: ALGORITHM_OF[module.wanted]
        for module in model.modules
        if module.wanted is not None and module.wanted != "bf16"
    }
    excluded = _excluded(model)
    nested, flat = _nested(model, algorithms, excluded), _flat(model, algorithms, excluded)
    return Document(
        kind="metadata",
        forms={"nested": Form(".json", _text(nested)), "flat": Form(".json", _text(flat))},
        config=nested,
        use=(
            "nested: hf_quant_config.json of the checkpoint; TensorRT-LLM believes it first",
            'flat: "quantization_config" in its config.json; vLLM and SGLang believe it first',
        ),
    )


def _excluded(model: Model) -> list[str]:
    names: dict[str, None] = {}
    for module in model.modules:
        if module.wanted in {None, "bf16"}:
            names[module.name] = None
            head, experts, _ = module.name.rpartition(".experts.")
            if experts:
                names[f"{head}.experts"] = None
    return list(names)


def _nested(model: Model, algorithms: dict[str, str], excluded: list[str]) -> dict[str, Any]:
    quantization = {
        "quant_algo": _algorithm(model, algorithms),
        "kv_cache_quant_algo": "FP8" if model.kv_cache == "fp8" else None,
        "exclude_modules": excluded,
        **_layers(model, algorithms),
    }
    return {
        "fp8scope": _says(model),
        "producer": {"name": "modelopt"},
        "quantization": quantization,
    }


def _flat(model: Model, algorithms: dict[str, str], excluded: list[str]) -> dict[str, Any]:
    cache = {"dynamic": False, "num_bits": 8, "type": "float"}
    return {
        "fp8scope": _says(model),
        "quant_method": "modelopt",
        "quant_algo": _algorithm(model, algorithms),
        **({"kv_cache_scheme": cache} if model.kv_cache == "fp8" else {}),
        "ignore": excluded,
        **_layers(model, algorithms),
        "producer": {"name": "modelopt"},
    }


def _algorithm(model: Model, algorithms: dict[str, str]) -> str:
    return MIXED if _is_mixed(model, algorithms) else next(iter(algorithms.values()))


def _is_mixed(model: Model, algorithms: dict[str, str]) -> bool:
    """Also of experts per block, which vLLM takes for static ones where nothing else is said."""
    blocks = any(module.kind == "expert" for module in model.in_treatment("fp8_block"))
    return blocks or len(set(algorithms.values())) > 1


def _layers(model: Model, algorithms: dict[str, str]) -> dict[str, Any]:
    """By layer where they differ; block sizes are 128, which readers take where none is said."""
    if not _is_mixed(model, algorithms):
        return {}
    named = {name: {"quant_algo": algorithm} for name, algorithm in algorithms.items()}
    return {"quantized_layers": named}


def _says(model: Model) -> str:
    folded = "; smoothing is folded into those weights" if model.folded else ""
    return f"{SAYS['metadata']}{folded}"


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"


CONSUMER = Consumer(
    name="hf-quant-config",
    about="ModelOpt's metadata of a finished checkpoint, as vLLM, SGLang and TensorRT-LLM read it",
    write=write,
)
