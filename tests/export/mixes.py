"""Small models with a mix of treatments, for consumers that can say all of them."""

from __future__ import annotations

from dataclasses import replace

from fp8scope.core.modules import Model, Module, Treatment
from tests.export.shapes import DOWN0, gpt2, llama, mixtral, planned

BY_PART: dict[str, Treatment] = {
    "self_attn.qkv_proj": "fp8_token",
    "self_attn.o_proj": "fp8_tensor",
    "mlp.gate_up": "fp8_block",
    "mlp.down_proj": "fp8_tensor",
}


def _part(module: Module) -> Treatment:
    if module.kind == "lm_head" or module.name == DOWN0:
        return "bf16"
    return BY_PART[module.group.split(".", 3)[-1]]


def _expert(module: Module) -> Treatment:
    if module.kind in {"router", "lm_head"} or module.group == "model.layers.1.mlp.experts":
        return "bf16"
    return "fp8_tensor" if module.kind == "expert" else "fp8_token"


LLAMA = replace(llama().with_wanted(_part), kv_cache="fp8", folded=True)
MIXTRAL = mixtral().with_wanted(_expert)
GPT2 = planned(gpt2(), "fp8_tensor")
PLAIN = planned(llama(12), "fp8_tensor", [DOWN0])  # layers.1 and layers.10
MODELS: dict[str, Model] = {"llama": LLAMA, "mixtral": MIXTRAL}
