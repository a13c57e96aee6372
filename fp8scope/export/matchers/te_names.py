"""What Transformer Engine calls the layers of a model, by who made the model.

All as `debug_api.infer_and_assign_layer_names` names them: by attributes, from `model`, and in a
list by the block's `layer_number`, which counts from 1, or else by its place.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

from fp8scope.core.modules import Model, Module
from fp8scope.export.consumer import Layer
from fp8scope.export.matchers import transformers_layers

# what a linear of a block is for, by how it is called in the attention and elsewhere
_ROLES = {
    "attention": {
        "qkv": {"q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn"},
        "proj": {"o_proj", "out_proj", "dense", "c_proj"},
    },
    "mlp": {
        "fc1": {"gate_proj", "up_proj", "gate_up_proj", "fc1", "dense_h_to_4h", "c_fc"},
        "fc2": {"down_proj", "fc2", "dense_4h_to_h", "c_proj"},
    },
}
_BLOCK = re.compile(r"^(?P<before>.*?)(?P<list>layers|h)\.(?P<number>\d+)\.(?P<inside>.+)$")
_TE = {
    "qkv": "self_attention.layernorm_qkv",
    "proj": "self_attention.proj",
    "fc1": "layernorm_mlp.fc1",
    "fc2": "layernorm_mlp.fc2",
}
_MEGATRON = {
    "qkv": "self_attention.linear_qkv",
    "proj": "self_attention.linear_proj",
    "fc1": "mlp.linear_fc1",
    "fc2": "mlp.linear_fc2",
}


class Unnamed(Exception):
    """A module that has no name here, with what is wrong."""


def _converted(module: Module) -> str:
    return f"model.{module.runtime}"


def _te_block(module: Module) -> str:
    found, role = _role(module)
    if "expert" in module.runtime:
        raise Unnamed(f"te.TransformerLayer has no experts ({module.runtime})")
    before = f"model.{found['before']}{found['list']}"
    return f"{before}.{int(found['number']) + 1}.{_TE[role]}"


def _megatron(module: Module) -> str:
    found, role = _role(module)
    inside = _MEGATRON[role]
    if module.kind == "expert":
        inside = inside.replace("mlp.", "mlp.experts.") + ".gemm_0"
    elif "shared_expert" in module.runtime:
        inside = inside.replace("mlp.", "mlp.shared_experts.")
    return f"model.module.module.decoder.layers.{int(found['number']) + 1}.{inside}"


def _role(module: Module) -> tuple[re.Match[str], str]:
    if found := _BLOCK.match(module.runtime):
        part = "attention" if "att" in found["inside"] else "mlp"
        last = module.runtime.rsplit(".", 1)[-1]
        for role, names in _ROLES[part].items():
            if last in names:
                return found, role
    raise Unnamed(f"{module.runtime} has no place in a block of attention and MLP")


NAMINGS: dict[str, Callable[[Module], str]] = {
    "yaml": _converted,
    "transformer-layer": _te_block,
    "megatron": _megatron,
}


def layers(model: Model, naming: str) -> tuple[Layer, ...]:
    """Raises Unnamed."""
    parts: dict[str, list[Module]] = defaultdict(list)
    for module in model.modules:
        own = is_engines(model, module, naming)
        parts[NAMINGS[naming](module) if own else module.runtime].append(module)
    return tuple(
        Layer(name, tuple(each), (), "experts" if each[0].kind == "expert" else "linear")
        for name, each in parts.items()
    )


def is_engines(model: Model, module: Module, naming: str) -> bool:
    """Whether it is a module of Transformer Engine at all; the others stay in BF16."""
    if naming == "yaml":
        divides = module.in_features % 16 == 0 and module.out_features % 16 == 0
        return transformers_layers.is_linear_class(model, module) and divides
    return module.kind in {"linear", "expert"}
