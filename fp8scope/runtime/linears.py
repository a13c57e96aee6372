"""What counts as a linear layer: `nn.Linear` and transformers' `Conv1D` (GPT-2).

Both compute y = x @ W.T + b with W of shape [out, in]; Conv1D keeps W as [in, out].
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


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
    if not is_linear(module) or not isinstance(weight, Tensor):
        raise TypeError(f"{type(module).__name__} is not a linear layer")
    return weight.T if is_transposed(module) else weight


def named_linears(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear of `model` by module name, in module order.

    A module used under two names appears once, under the first.
    """
    return {name: module for name, module in model.named_modules() if is_linear(module)}


def fused_experts(model: nn.Module) -> list[str]:
    """Modules called `experts` that keep the matrices of all experts in 3-D parameters."""
    return [
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "experts"
        and any(parameter.ndim == 3 for parameter in module.parameters(recurse=False))
    ]
