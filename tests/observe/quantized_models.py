"""Small models with what their profile makes of them: units, scales, quantized GEMMs and caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GptOssConfig, GptOssForCausalLM

from fp8scope.analyze.scales import Scales
from fp8scope.core.gemms import Gemm, Unit, units
from fp8scope.core.sites import Role
from fp8scope.core.structure import Structure
from fp8scope.observe.expert_gradients import Routed
from fp8scope.profile.record import Profile
from fp8scope.runtime.experts import Experts
from fp8scope.runtime.linears import linear_weights
from fp8scope.runtime.quantized import QuantizedCache, QuantizedGemm
from tests import models
from tests.observe import scans

ROUTED = ("mixtral", "qwen3_moe", "deepseek_v3")
TRANSPOSED = "gpt_oss"  # stacks [experts, in, out], with biases; of unknown architecture


def gpt_oss() -> nn.Module:
    torch.manual_seed(0)
    tokens: dict[str, Any] = models.TOKENS
    config = GptOssConfig(
        **tokens,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        initializer_range=0.2,
    )
    model: nn.Module = GptOssForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.3)
    nn.Module.eval(model)
    return model


@dataclass
class Prepared:
    """A model, scanned; do not change it: it is shared."""

    model: Any
    profile: Profile

    def __post_init__(self) -> None:
        self.structure: Structure = self.profile.structure
        self.units: list[Unit] = units(self.structure)
        self.scales = Scales(self.profile)
        weights = linear_weights(self.model)
        self.gemms = {
            gemm.members: QuantizedGemm(gemm, weights, self.scales)
            for unit in self.units
            for gemm in unit.gemms
        }
        self.caches = {
            layer.layer: QuantizedCache(layer, self.scales) for layer in self.structure.kv_layers
        }

    def unit(self, name: str) -> Unit:
        return next(unit for unit in self.units if unit.name.endswith(name))


def prepare(model: nn.Module) -> Prepared:
    return Prepared(model, scans.run(model))


@cache
def prepared(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Prepared:
    model: Any = gpt_oss() if name == TRANSPOSED else models.build(name, **changes)
    return prepare(model.to(dtype))


@dataclass
class Shown:
    """An observer that keeps all it is shown."""

    gemms: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    stacks: dict[str, Routed] = field(default_factory=dict)
    caches: dict[tuple[int, Role], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def gemm(self, gemm: Gemm, x: Tensor, gradients: Sequence[Tensor], into_input: Tensor) -> None:
        assert "+".join(gemm.members) not in self.gemms
        self.gemms["+".join(gemm.members)] = x.clone(), torch.cat(tuple(gradients), dim=1)

    def experts(self, gemm: Gemm, routed: Routed) -> None:
        assert gemm.members[0] not in self.stacks
        self.stacks[gemm.members[0]] = routed

    def cache(self, layer: int, role: Role, values: Tensor, gradient: Tensor) -> None:
        self.caches[layer, role] = values.clone(), gradient.clone()


Change = Callable[[int, Tensor], Tensor]


def unchanged(_: int, values: Tensor) -> Tensor:
    return values


class Loop:
    """A plain forward of a layer's experts, one after the other; by expert it keeps the tokens and
    what both matmuls read and gave. `first` and `last` change what they read.
    """

    def __init__(
        self, experts: Experts, first: Change = unchanged, last: Change = unchanged
    ) -> None:
        self._experts, self._first, self._last = experts, first, last
        self.kept: dict[int, tuple[Tensor, ...]] = {}
        experts.module.forward = self._forward

    def _forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        module = self._experts.module
        first, last = self._experts.stacks().values()
        output = torch.zeros_like(hidden)
        for expert in range(self._experts.count):
            token, place = torch.where(top_k_index == expert)
            if not len(token):
                width = module.down_proj.shape[1 if module.is_transposed else 2]
                empty = [hidden.new_zeros(0, n) for n in (hidden.shape[1], 2 * width, width)]
                self.kept[expert] = token, *empty, hidden[token]
                continue
            x = self._first(expert, hidden[token])
            gate_up = x @ first[expert].T
            if module.has_bias:
                gate_up = gate_up + module.gate_up_proj_bias[expert]
            product = self._last(expert, module._apply_gate(gate_up))
            result = product @ last[expert].T
            if module.has_bias:
                result = result + module.down_proj_bias[expert]
            self.kept[expert] = token, x, gate_up, product, result
            output = output.index_add(0, token, result * top_k_weights[token, place, None])
        return output
