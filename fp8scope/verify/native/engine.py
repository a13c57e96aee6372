"""A checkpoint on its device, ready to make tokens: in FP8, or the BF16 model beside it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from fp8scope.core.modules import WORDS, Treatment
from fp8scope.core.structure import Structure
from fp8scope.errors import BadInput
from fp8scope.runtime.fp8.checkpoint import Fp8Model, load_fp8
from fp8scope.runtime.loading import LoadOptions, context_length, load, vocabulary_size
from fp8scope.runtime.structure import discover
from fp8scope.verify.native.modules import fp8_parts, running
from fp8scope.verify.order import Order

_ODD = "have sides that are no multiples of 16: each call pads a copy of the weight first"
_CACHE = "keys and values are held in E4M3, and multiplied out before attention, which is not FP8"


@dataclass(frozen=True)
class Engine:
    """`cache()` gives an empty KV cache that grows, `static_cache(n)` one of n tokens.

    `last_alone`: whether the model can leave out the logits of all positions but the last.
    `held`: treatment by runtime name of the linears that are not BF16; `in_fp8`: those of them
    whose GEMM multiplies the codes. `notes`: what of this is not as one would think, in sentences.
    """

    model: nn.Module
    structure: Structure
    device: torch.device
    vocabulary: int
    bos: int | None
    last_alone: bool
    cache: Callable[[], Any]
    static_cache: Callable[[int], Any]
    kv_cache: Literal["bf16", "fp8"]
    held: Mapping[str, Treatment]
    in_fp8: tuple[str, ...]
    notes: tuple[str, ...]

    def next_token(self, ids: Tensor, cache: Any) -> Tensor:
        """The likeliest token [B, 1] after ids [B, T] and all that the cache holds."""
        keep = {"logits_to_keep": 1} if self.last_alone else {}
        output = self.model(input_ids=ids, past_key_values=cache, use_cache=True, **keep)
        likeliest: Tensor = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        return likeliest


def open_engine(order: Order) -> Engine:
    """Load what is ordered. Raises what `load_fp8` and `load` raise, and BadInput for more tokens
    than the model takes, and for linears that are not FP8 to be run by weight alone.
    """
    return _open_plain(order) if order.baseline else _open_fp8(order)


def _open_plain(order: Order) -> Engine:
    loaded = load(order.checkpoint, LoadOptions(dtype=order.dtype, device=order.device))
    if order.weight_only:
        raise BadInput(f"{order.checkpoint} is no FP8 checkpoint", "leave out weight_only")
    model: Any = loaded.model
    structure = discover(model, loaded.tensor_shapes)
    return Engine(
        **_common(order, model, structure, loaded.tokenizer),
        cache=lambda: DynamicCache(config=model.config),
        static_cache=lambda length: StaticCache(config=model.config, max_cache_len=length),
        kv_cache="bf16",
        held={},
        in_fp8=(),
        notes=(),
    )


def _open_fp8(order: Order) -> Engine:
    loaded = load_fp8(Path(order.checkpoint), dtype=order.dtype, device=order.device)
    model: Any = loaded.model
    computed = running(model, loaded.structure)
    _run_by_weight(order, computed)
    for part in fp8_parts(model):
        part.fast_accum = order.device.startswith("cuda")  # as the kernels of engines do
    held = {name: found for name, found in loaded.treatments.items() if found != "bf16"}
    in_fp8 = tuple(name for name in held if _in_fp8(computed[name]))
    plain = DynamicCache, StaticCache
    return Engine(
        **_common(order, model, loaded.structure, loaded.tokenizer),
        cache=lambda: loaded.cache() or plain[0](config=model.config),
        static_cache=lambda n: loaded.static_cache(n) or plain[1](model.config, max_cache_len=n),
        kv_cache="fp8" if loaded.kv_scales else "bf16",
        held=held,
        in_fp8=in_fp8,
        notes=tuple(_notes(order, loaded, computed, in_fp8)),
    )


def _common(order: Order, model: Any, structure: Structure, tokenizer: Any) -> dict[str, Any]:
    """What both kinds of checkpoint have alike."""
    tokens = order.prompt_len + max(order.gen_len, order.decode_steps + 1)
    if (context := context_length(model)) is not None and tokens > context:
        what = f"{order.checkpoint} takes {context} tokens, and {tokens} are asked for"
        raise BadInput(what, "give a shorter --prompt-len or --gen-len")
    bos = getattr(tokenizer, "bos_token_id", None)
    return {
        "model": model,
        "structure": structure,
        "device": torch.device(order.device),
        "vocabulary": vocabulary_size(model) or len(tokenizer),
        "bos": bos,
        "last_alone": "logits_to_keep" in inspect.signature(model.forward).parameters,
    }


def _run_by_weight(order: Order, computed: Mapping[str, tuple[nn.Module, ...]]) -> None:
    for name in order.weight_only:
        parts = [part for module in computed.get(name, ()) for part in fp8_parts(module)]
        if not parts:
            what = f"{name} is no linear in FP8 of {order.checkpoint}"
            raise BadInput(what, "name linears by their runtime names")
        for part in parts:
            part.gemm = "dequantized"


def _in_fp8(modules: tuple[nn.Module, ...]) -> bool:
    parts = [part for module in modules for part in fp8_parts(module)]
    return bool(parts) and all(part.multiplies_codes for part in parts)


def _notes(
    order: Order,
    loaded: Fp8Model,
    computed: Mapping[str, tuple[nn.Module, ...]],
    in_fp8: tuple[str, ...],
) -> list[str]:
    found = []
    for treatment in dict.fromkeys(loaded.treatments.values()):
        left = [n for n, t in loaded.treatments.items() if t == treatment and n not in in_fp8]
        if left and treatment != "bf16":
            what = f"{_some(left)}: {WORDS[treatment]}, but multiplied in the model's dtype"
            reason = " (this engine has no FP8 GEMM with block scales)"
            found.append(what + (reason if treatment == "fp8_block" else ""))
    odd = [n for n in in_fp8 if any(p.padded_on_cuda for m in computed[n] for p in fp8_parts(m))]
    if odd and order.device.startswith("cuda"):
        found.append(f"{_some(odd)} {_ODD}")
    if loaded.kv_scales:
        found.append(_CACHE)
    return found


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} linears, e.g. {names[0]}"
