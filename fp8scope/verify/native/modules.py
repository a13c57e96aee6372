"""Where each linear of a structure runs: the modules behind its name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from fp8scope.core.structure import Structure
from fp8scope.runtime.experts import named_experts
from fp8scope.runtime.fp8.experts import Fp8Experts
from fp8scope.runtime.fp8.linear import Fp8Linear


def running(model: nn.Module, structure: Structure) -> dict[str, tuple[nn.Module, ...]]:
    """The modules that compute each linear, by runtime name: one, or of a stack one per expert.

    A stack is left out where transformers runs all experts as one grouped GEMM, see `grouped`.
    """
    stacks = dict(_stacks(model))
    found: dict[str, tuple[nn.Module, ...]] = {}
    for linear in structure.linears:
        if not linear.experts:
            found[linear.name] = (model.get_submodule(linear.name),)
        elif linear.name in stacks:
            found[linear.name] = stacks[linear.name]
    return found


def grouped(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of routed experts that transformers runs itself, by name (`….mlp.experts`)."""
    return {name: experts.module for name, experts in named_experts(model).items()}


def fp8_parts(module: nn.Module) -> list[Fp8Linear]:
    """The linears in E4M3 that a module is made of."""
    return [part for part in module.modules() if isinstance(part, Fp8Linear)]


def _stacks(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, ...]]]:
    for module in model.modules():
        if isinstance(module, Fp8Experts):
            parts: Any
            for name, parts in zip(module.stacks, (module.first, module.last), strict=True):
                yield name, tuple(parts)
