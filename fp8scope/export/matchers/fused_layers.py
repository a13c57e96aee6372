"""The layers of a serving engine, made of the linears in the files: fused ones, and experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fp8scope.core.modules import Module
from fp8scope.export.consumer import Layer

USUAL: Mapping[str, Sequence[str]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}


def parts(name: str) -> tuple[str, ...]:
    """Names of what a fused layer is usually made of, which lists may give it; none of others."""
    parent, _, last = name.rpartition(".")
    return tuple(f"{parent}.{part}" if parent else part for part in USUAL.get(last, ()))


# classes of linears that vLLM and SGLang both have, by the last part of a name
_CLASSES = {
    "qkv_proj": "QKVParallelLinear",
    "gate_up_proj": "MergedColumnParallelLinear",
    "o_proj": "RowParallelLinear",
    "down_proj": "RowParallelLinear",
}


def linear_class(layer: Layer) -> str:
    """The class that a serving engine builds a linear of."""
    return _CLASSES.get(layer.name.rsplit(".", 1)[-1], "ColumnParallelLinear")


def fused_layers(
    modules: Sequence[Module],
    rename: Callable[[str], str],
    fused: Mapping[str, Sequence[str]] = USUAL,
) -> tuple[Layer, ...]:
    """What the engine builds, in the files' order. `rename` gives the engine's name of a file's.

    Linears become one where all shards of an entry of `fused` lie side by side. All routed experts
    of a layer are one, named to the end of `experts`. What lies fused in the files (`qkv_proj`) has
    the names of shards all the same.
    """
    named = {rename(module.name): module for module in modules}
    done: set[str] = set()
    layers = []
    for name, module in named.items():
        if name in done:
            continue
        layer = _experts(name, named) if module.kind == "expert" else _linear(name, named, fused)
        done |= {rename(each.name) for each in layer.modules}
        layers.append(layer)
    return tuple(layers)


def _experts(name: str, named: Mapping[str, Module]) -> Layer:
    parts = name.split(".")
    end = parts.index("experts") + 1 if "experts" in parts else len(parts) - 1
    owner = ".".join(parts[:end])
    names = [n for n, m in named.items() if m.kind == "expert" and n.startswith(f"{owner}.")]
    return Layer(owner, tuple(named[n] for n in names), tuple(names), "experts")


def _linear(name: str, named: Mapping[str, Module], fused: Mapping[str, Sequence[str]]) -> Layer:
    module = named[name]
    parent, _, last = name.rpartition(".")
    start = f"{parent}." if parent else ""
    for whole, parts in fused.items():
        shards = tuple(f"{start}{part}" for part in parts)
        if last in parts and all(shard in named for shard in shards):
            return Layer(f"{start}{whole}", tuple(named[shard] for shard in shards), shards)
        if last == whole:
            return Layer(name, (module,), shards)
    return Layer(name, (module,), (), "lm_head" if module.kind == "lm_head" else "linear")
