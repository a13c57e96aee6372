"""What a consumer cannot say of a model, refused before anything is written."""

from __future__ import annotations

from collections.abc import Collection

from fp8scope.core.modules import WORDS, Model, Module, Treatment
from fp8scope.export.consumer import CannotExpress

FINISHED = "build a checkpoint: --to hf-quant-config or --to compressed-tensors"


def refuse(name: str, model: Model, can: Collection[Treatment], nearest: str) -> None:
    """Raises CannotExpress where consumer `name` has no words for what `model` wants.

    can: the treatments that it knows besides BF16; `nearest` says what to take in place of others.
    No consumer takes layers that are split, nor caches that differ by layer.
    """
    for module in model.modules:
        if _wanted(module) not in {"bf16", *can}:
            what = f"{name} cannot make {module.name} {WORDS[_wanted(module)]}"
            raise CannotExpress(what, nearest)
    if model.kv_cache == "mixed":
        what = f"{name} has one KV cache for all layers, and those of {model.name} differ"
        raise CannotExpress(what, "plan all of them with --kv-cache fp8 or --kv-cache bf16")
    _refuse_split(model)
    if model.wanted() <= {"bf16"}:
        what = f"no layer of {model.name} is in FP8: there is nothing to say to {name}"
        raise CannotExpress(what, "serve the BF16 checkpoint as it is")


def refuse_online(name: str, model: Model) -> None:
    """Raises CannotExpress for what is no matter of linears, of a config that a BF16 model is
    quantized by while it is loaded: nothing is folded then, and there are no scales of a KV cache.
    """
    if model.folded:
        what = f"the plan smooths, and {name} folds nothing into the weights that it loads"
        raise CannotExpress(what, f"{FINISHED}; or plan without fp8_smooth")
    if model.kv_cache != "bf16":
        what = f"a BF16 checkpoint has no scales of an FP8 KV cache for {name}"
        raise CannotExpress(what, f"{FINISHED}; or plan the KV cache in BF16")


def _refuse_split(model: Model) -> None:
    first: dict[str, Module] = {}
    for module in model.modules:
        other = first.setdefault(module.group, module)
        if _wanted(other) != _wanted(module):
            both = (
                f"{other.name} ({WORDS[_wanted(other)]}), {module.name} ({WORDS[_wanted(module)]})"
            )
            raise CannotExpress(f"engines run as one: {both}", "give both the same precision")


def _wanted(module: Module) -> Treatment:
    return module.wanted or "bf16"
