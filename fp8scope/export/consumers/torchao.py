"""torchao's FqnToConfig: a config for every name, of a module or of a parameter.

Scales of inputs are always made at run time. How it is read is in `matchers.torchao_fqn`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fp8scope.core.modules import WORDS, Model, Treatment
from fp8scope.export.consumer import SAYS, CannotExpress, Consumer, Document, Form, Layer
from fp8scope.export.matchers import transformers_layers
from fp8scope.export.matchers.torchao_fqn import (
    FLOAT8,
    GRANULARITY,
    JSON_GRANULARITY,
    read,
    unsuited,
)
from fp8scope.export.refusals import refuse_online


def write(model: Model) -> Document:
    """FqnToConfig as Python and, as `json`, the same as config.json holds it."""
    chosen: dict[str, Treatment] = {}
    for layer in transformers_layers.layers(model):
        treatment = transformers_layers.wanted(layer)
        _check(model, layer, treatment)
        # None for both stacks of a block makes quantize_ pop from an empty list
        if treatment != "bf16" or layer.kind != "experts":
            chosen[layer.name] = treatment
    refuse_online("torchao", model)
    config = {name: _words(treatment) for name, treatment in chosen.items()}
    loaded = "quantization_config=TorchAoConfig(config, modules_to_not_convert=[])"
    return Document(
        kind="online config",
        forms={
            "python": Form(".py", _python(model, chosen)),
            "json": Form(".json", json.dumps(_checkpoint_config(chosen), indent=2) + "\n"),
        },
        config=config,
        use=(
            "quantize_(model, config, filter_fn=None)  # torchao.quantization, on a BF16 model",
            f"AutoModelForCausalLM.from_pretrained(MODEL, dtype='bfloat16', {loaded})",
        ),
    )


def _check(model: Model, layer: Layer, treatment: Treatment) -> None:
    if treatment == "bf16":
        return
    if treatment not in GRANULARITY:
        raise CannotExpress(
            f"torchao makes input scales at run time: it has no {WORDS[treatment]} ({layer.name})",
            "the nearest is FP8 per token (fp8_token, PerRow); static scales: --to hf-quant-config",
        )
    if layer.kind == "experts" and treatment != "fp8_token":
        raise CannotExpress(
            f"torchao runs stacked experts per row only, not {WORDS[treatment]} ({layer.name})",
            "plan the experts in fp8_token or BF16",
        )
    if problem := unsuited(model, layer, treatment):
        raise CannotExpress(f"torchao: {layer.name} {problem}", "keep it in BF16")


def _words(treatment: Treatment) -> dict[str, str] | None:
    return None if treatment == "bf16" else {"type": FLOAT8, "granularity": GRANULARITY[treatment]}


def _python(model: Model, chosen: Mapping[str, Treatment]) -> str:
    used = [treatment for treatment in GRANULARITY if treatment in chosen.values()]
    lines = [f"# {SAYS['online config']}", f"# torchao 0.18; names of {model.name}, transformers 5"]
    lines += [
        "from collections import OrderedDict",
        "",
        "from torchao.quantization import FqnToConfig",
    ]
    if used:
        lines.append(f"from torchao.quantization import {FLOAT8}")
    kinds = {re.findall(r"\w+", GRANULARITY[treatment])[0] for treatment in used}
    lines += [f"from torchao.quantization.granularity import {kind}" for kind in sorted(kinds)]
    lines += ["", *(f"{name} = {FLOAT8}(granularity={GRANULARITY[name]})" for name in used)]
    lines += ["config = FqnToConfig(", "    OrderedDict(", "        {"]
    for name, treatment in chosen.items():
        lines.append(
            f"            {json.dumps(name)}: {None if treatment == 'bf16' else treatment},"
        )
    return "\n".join([*lines, "        }", "    )", ")"]) + "\n"


def _checkpoint_config(chosen: Mapping[str, Treatment]) -> dict[str, Any]:
    configs = {
        name: None
        if treatment == "bf16"
        else {
            "_type": FLOAT8,
            "_version": 2,
            "_data": {"granularity": JSON_GRANULARITY[treatment]},
        }
        for name, treatment in chosen.items()
    }
    whole = {"_type": "FqnToConfig", "_version": 1, "_data": {"fqn_to_config": configs}}
    return {
        "quant_method": "torchao",
        "quant_type": {"default": whole},
        "modules_to_not_convert": [],
        "include_input_output_embeddings": False,
        "untie_embedding_weights": False,
    }


CONSUMER = Consumer(
    name="torchao",
    about="torchao's FqnToConfig as Python: a config for every name, for quantize_ or transformers",
    write=write,
    reads={"torchao": read},
    versions=("0.18.0",),
)
