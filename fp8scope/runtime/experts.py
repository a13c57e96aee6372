"""Routed experts as transformers 5 keeps them: stacked weights in one module, no `nn.Linear`.

A module decorated with `use_experts_implementation` holds `gate_up_proj` (or `up_proj`, where
nothing is gated) and `down_proj` as 3-D parameters [experts, out, in], or [experts, in, out] if
`is_transposed`. Each of the two is one stacked linear here, by the parameter's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ALIGNMENT = 16  # bytes: a grouped matmul takes no other row lengths
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Experts:
    """The routed experts of one layer: the module called `name`, of `count` experts."""

    name: str
    module: Any
    count: int

    @property
    def first(self) -> str:
        """Name of the stacked linear that reads the layer's input."""
        return f"{self.name}.{'gate_up_proj' if self.module.has_gate else 'up_proj'}"

    @property
    def last(self) -> str:
        """Name of the stacked linear that writes the layer's output."""
        return f"{self.name}.down_proj"

    def stacks(self) -> dict[str, Tensor]:
        """Both weights by name, as [experts, out, in] views that share the parameters' memory."""
        return {name: self._view(name.rpartition(".")[2]) for name in (self.first, self.last)}

    def _view(self, parameter: str) -> Tensor:
        weight: Tensor = getattr(self.module, parameter)
        return weight.transpose(1, 2) if self.module.is_transposed else weight


def named_experts(model: nn.Module) -> dict[str, Experts]:
    """The routed experts of every layer by module name, in module order."""
    return {
        name: Experts(name, module, len(module.get_parameter("down_proj")))
        for name, module in model.named_modules()
        if _is_experts(module)
    }


def experts_per_token(model: Any) -> int:
    """How many routed experts read a token; 8, which most have, where the config does not say."""
    config = getattr(model, "config", None)
    text = config.get_text_config() if config is not None else None
    return int(getattr(text, "num_experts_per_tok", None) or 8)


def named_stacks(model: nn.Module) -> dict[str, Tensor]:
    """Every stacked linear as [experts, out, in], by name, in module order."""
    return {
        name: weight
        for experts in named_experts(model).values()
        for name, weight in experts.stacks().items()
    }


def other_experts(model: nn.Module) -> list[str]:
    """Modules that look like experts, but whose weights are kept in a way not known here."""
    return [
        name
        for name, module in model.named_modules()
        if "expert" in name.rpartition(".")[2]
        and not _is_experts(module)
        and any(parameter.ndim == 3 for parameter in module.parameters(recurse=False))
    ]


def named_routers(model: nn.Module) -> dict[str, nn.Module]:
    """Routers that hold a bare `weight` [experts, hidden] beside the experts, by module name."""
    return dict(_routers(model))


def _routers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for experts in named_experts(model).values():
        parent = experts.name.rpartition(".")[0]
        for name, module in model.get_submodule(parent).named_children():
            weight = module._parameters.get("weight")
            if weight is not None and weight.ndim == 2 and len(weight) == experts.count:
                yield f"{parent}.{name}" if parent else name, module


def _is_experts(module: Any) -> bool:
    decorated = all(hasattr(module, name) for name in ("has_gate", "is_transposed", "_apply_gate"))
    if not decorated or getattr(module, "_is_expert_parallel", False):
        return False
    names = ("gate_up_proj" if module.has_gate else "up_proj", "down_proj")
    weights = [module._parameters.get(name) for name in names]
    return all(
        weight is not None
        and weight.ndim == 3
        and weight.dtype in DTYPES
        and all(width * weight.itemsize % ALIGNMENT == 0 for width in weight.shape[1:])
        for weight in weights
    )
