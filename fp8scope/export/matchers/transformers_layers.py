"""Linears as transformers 5 runs them: what its quantizers, torchao and recipes by name walk over.

Routed experts are two parameters of one module (`…mlp.experts`), and a few old models keep their
weights transposed in a class of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal

from fp8scope.core.modules import WORDS, Model, Module, Treatment
from fp8scope.export.consumer import CannotExpress, Layer

# those whose linears are transformers' Conv1D: W is [in, out], and nn.Linear is not its class
CONV1D = frozenset({"clvp", "decision_transformer", "gpt2", "imagegpt", "openai-gpt"})
_BOUNDARY = r"(?:(?<=\.)|(?=\.|$))"


def layers(model: Model) -> tuple[Layer, ...]:
    """One for each module, and for each stack of experts one, named as its parameter."""
    return _grouped(model, lambda module: module.runtime)


def module_layers(model: Model) -> tuple[Layer, ...]:
    """One for each module: both stacks of experts are in one, `…mlp.experts`."""
    return _grouped(model, module_name)


def module_name(module: Module) -> str:
    """Of stacked experts that of the module whose parameter they are."""
    return module.runtime.rpartition(".")[0] if module.kind == "expert" else module.runtime


def is_linear_class(model: Model, module: Module) -> bool:
    """Whether it is an nn.Linear: experts, Conv1D and nearly all routers are not.

    The router of AfMoE is one, and so are the gates of shared experts.
    """
    if module.kind == "router" and module.runtime.rsplit(".", 1)[-1] in {"gate", "router"}:
        return model.model_type == "afmoe"
    return module.kind != "expert" and not is_transposed(model, module)


def is_transposed(model: Model, module: Module) -> bool:
    """Whether its module keeps W as [in, out]."""
    return model.model_type in CONV1D and module.kind != "lm_head"


def wanted(layer: Layer) -> Treatment:
    """What all of it should run in. Raises CannotExpress where its parts differ."""
    asked = {module.wanted or "bf16" for module in layer.modules}
    if len(asked) > 1:
        words = " and ".join(sorted(WORDS[treatment] for treatment in asked))
        what = f"{layer.name} is one module at run time, and {words} are wanted in it"
        raise CannotExpress(what, "plan its parts alike")
    return asked.pop()


def skips(entry: str, name: str) -> bool:
    """Whether an entry of `modules_to_not_convert` skips `name`, by itself.

    It is a regular expression from the start of the name to a dot or its end, or else a plain
    ending, which need not begin at a dot. Raises re.error.
    """
    return re.match(f"(?:{entry}){_BOUNDARY}", name) is not None or name.endswith(entry)


def broken(patterns: Iterable[str]) -> str:
    """What is wrong with the first that is no regular expression, "" where all are."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            return f"re.error: {error} in “{pattern}”"
    return ""


def _grouped(model: Model, name: Callable[[Module], str]) -> tuple[Layer, ...]:
    parts: dict[str, list[Module]] = {}
    for module in model.modules:
        parts.setdefault(name(module), []).append(module)
    return tuple(Layer(key, tuple(each), (), _kind(each[0])) for key, each in parts.items())


def _kind(module: Module) -> Literal["linear", "experts", "lm_head"]:
    if module.kind == "expert":
        return "experts"
    return "lm_head" if module.kind == "lm_head" else "linear"
