"""The linears of a model as they lie in the files, and the ways in which an engine can run each.

Three name spaces meet here. Transformers' modules (`…mlp.experts.gate_up_proj`) are what a plan and
a recipe name; the files' (`…block_sparse_moe.experts.3.w1`) are what the metadata of a checkpoint
names; an engine's own (`…self_attn.qkv_proj`) are made from those by the consumer that has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
KVCache = Literal["bf16", "fp8", "mixed"]

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


@dataclass(frozen=True)
class Model:
    """The linears of a model, in module order, and what applies to all of it.

    `architecture` is the class in config.json (`LlamaForCausalLM`). `folded`: smoothing must be
    folded into the weights before anything is quantized. `others`: what the files hold beside
    linears (norms, embeddings), where that is known.
    """

    name: str
    architecture: str
    model_type: str
    modules: tuple[Module, ...]
    kv_cache: KVCache = "bf16"
    folded: bool = False
    others: frozenset[str] = frozenset()

    def wanted(self) -> set[Treatment]:
        """Every treatment that some module should get."""
        return {module.wanted for module in self.modules if module.wanted is not None}

    def in_treatment(self, treatment: Treatment) -> list[Module]:
        """The modules that should get it, in module order."""
        return [module for module in self.modules if module.wanted == treatment]

    def with_wanted(self, choose: Callable[[Module], Treatment | None]) -> Model:
        """The same modules, with `choose(module)` as what they should run in."""
        return replace(self, modules=tuple(replace(m, wanted=choose(m)) for m in self.modules))
