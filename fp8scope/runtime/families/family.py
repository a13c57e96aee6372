"""What fp8scope knows about an architecture: its linears, fused groups and folds.

A family is data plus one function. Names are relative to a decoder block
(`self_attn.q_proj`); `runtime.structure` prefixes them with the block's own name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fp8scope.core.structure import Fold, FoldKind, KVLayer
from fp8scope.runtime.linears import weight_matrix

Rows = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Heads:
    """Attention shape: `query` heads share `kv` heads of `dim` channels each."""

    query: int
    kv: int
    dim: int

    @property
    def repeat(self) -> int:
        """Query heads per KV head; 1 without grouped-query attention."""
        return self.query // self.kv

    @classmethod
    def from_config(cls, config: Any) -> Heads:
        """Read from a transformers text config; head_dim falls back to hidden / heads."""
        query = int(config.num_attention_heads)
        kv = getattr(config, "num_key_value_heads", None) or query
        dim = getattr(config, "head_dim", None) or config.hidden_size // query
        return cls(query, int(kv), int(dim))


@dataclass(frozen=True)
class BlockContext:
    """What a family's `folds` function may look at: one block, its config, its heads."""

    module: nn.Module
    config: Any
    heads: Heads


def expanded_cache(layer: int, attention: str, config: Any) -> KVLayer:
    """The usual cache of a layer: keys and values of every KV head."""
    heads = Heads.from_config(config)
    return KVLayer(layer, attention, heads.kv, heads.dim)


@dataclass(frozen=True)
class Family:
    """One kind of decoder block.

    `model_types` are transformers' `config.model_type` values. `linears` are all linears
    that a block must hold to be recognised (a vision tower's block lacks some of them); where
    blocks differ, it must also hold all those of one of the `variants`.
    `attention` is the module that fills the KV cache, and `cache` says what an engine's cache
    receives from it, given the layer's number, that module's name and the text config. `fused`
    lists (group name, members) for linears that engines run as one GEMM, in the blocks that
    hold them all. `folds` gives the foldable producers of a block. `supports` turns away
    configs whose blocks differ from what is described here; such a model is treated as of
    unknown architecture.
    """

    name: str
    model_types: tuple[str, ...]
    attention: str
    linears: tuple[str, ...]
    fused: tuple[tuple[str, tuple[str, ...]], ...]
    folds: Callable[[BlockContext], tuple[Fold, ...]]
    variants: tuple[tuple[str, ...], ...] = ((),)
    cache: Callable[[int, str, Any], KVLayer] = expanded_cache
    supports: Callable[[Any], bool] = lambda _config: True


def norm_fold(
    block: nn.Module, producer: str, consumers: tuple[str, ...], kind: FoldKind = "norm"
) -> tuple[Fold, ...]:
    """The fold of a norm into all linears that read it; () if the norm has no weight.

    `consumers` must be *all* readers of the norm's output: a reader left out would see
    its input scaled and its weight not.
    """
    weight = getattr(block.get_submodule(producer), "weight", None)
    if weight is None:
        return ()
    channels = int(weight.numel())
    return (Fold(producer, kind, ((0, channels),), consumers, block=channels),)


def linear_fold(producer: str, rows: Rows, consumer: str) -> Fold:
    """The fold of rows of a linear into the one linear that reads them channel by channel.

    Right only if what lies between is linear in each channel, or positively homogeneous
    such as ReLU (the factors are positive).
    """
    channels = sum(stop - start for start, stop in rows)
    return Fold(producer, "linear", rows, (consumer,), block=channels)


def value_fold(producer: str, rows: Rows, consumer: str, heads: Heads) -> Fold:
    """The fold of the value rows into the attention's output projection.

    Attention is linear in V. Under GQA all query heads of a KV head read the same value
    channel, so they share its factor.
    """
    return Fold(producer, "linear", rows, (consumer,), block=heads.dim, repeat=heads.repeat)


def out_features(block: nn.Module, name: str) -> int:
    """Output features of the linear called `name` inside `block`."""
    return int(weight_matrix(block.get_submodule(name)).shape[0])
