"""What counts as a linear layer: `nn.Linear`, transformers' `Conv1D` (GPT-2), and routers.

All compute y = x @ W.T + b with W of shape [out, in]; Conv1D keeps W as [in, out]. The stacked
linears of routed experts are in `experts`.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fp8scope.runtime.experts import named_routers, named_stacks


def is_linear(module: nn.Module) -> bool:
    """Whether `module` is a linear layer whose input and weight fp8scope records."""
    return isinstance(module, nn.Linear | Conv1D)


def is_transposed(module: nn.Module) -> bool:
    """Whether the linear `module` keeps its weight as [in, out]."""
    return isinstance(module, Conv1D)


def weight_matrix(module: nn.Module) -> Tensor:
    """The weight of a linear as [out_features, in_features].

    For Conv1D this is a transposed view: it shares memory with the parameter, so that
    writing through it changes the model, but it is not contiguous.
    Raises TypeError for a module that is not a linear.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise TypeError(f"{type(module).__name__} is not a linear layer")
    return weight.T if is_transposed(module) else weight


def named_linears(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear of `model` by module name, in module order, but those without elements.

    A module used under two names appears once, under the first.
    """
    routers = named_routers(model)
    return {
        name: module
        for name, module in model.named_modules()
        if (is_linear(module) and weight_matrix(module).numel()) or name in routers
    }


def linear_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weight of every linear by name, [out, in], of stacked experts [experts, out, in]."""
    linears = {name: weight_matrix(module) for name, module in named_linears(model).items()}
    return {**linears, **named_stacks(model)}
