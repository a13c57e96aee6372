"""The shape of a model, as planning needs it: linears, fused groups, folds, KV layers.

Names are runtime module names (`model.layers.0.mlp.down_proj`) unless a field says
otherwise. Everything here is plain data, so that it can live in a profile as JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FoldKind = Literal["norm", "norm_plus_one", "linear"]


@dataclass(frozen=True)
class Linear:
    """One linear layer: `y = x @ W.T + b` with `W` of shape [out_features, in_features].

    `transposed` says that the module keeps W as [in, out] (GPT-2's Conv1D).
    `checkpoint_weight` is the tensor's name in the safetensors files, None if not found;
    `tied_to` names the parameter it shares storage with (`model.embed_tokens.weight`).

    `experts` is not 0 where routed experts are stacked: W is [experts, out_features,
    in_features], and the name is that of the parameter (`…mlp.experts.gate_up_proj`). Files may
    hold its rows under `checkpoint_shards`, one name per run of rows, in order, with {} for the
    expert's number (`….experts.{}.w1.weight`, `….experts.{}.w3.weight`).
    """

    name: str
    in_features: int
    out_features: int
    bias: bool
    transposed: bool
    checkpoint_weight: str | None
    tied_to: str | None
    experts: int = 0
    checkpoint_shards: tuple[str, ...] = ()


@dataclass(frozen=True)
class FusedGroup:
    """Linears that an engine runs as one GEMM, so that they must share a precision."""

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Fold:
    """Where a smoothing factor per channel can be folded without changing the function.

    The producer's output channels are divided by s and the consumers' input columns
    multiplied by s. `rows` lists half-open ranges of the producer's output rows (channels)
    which, concatenated, are the n foldable channels (all of them for a norm).
    Consumers read those channels in blocks of `block` channels (head_dim, or n), each block
    repeated `repeat` times in a row (query heads per KV head; 1 without GQA): channel
    h*block + d feeds consumer columns (h*repeat + r)*block + d for r in 0..repeat-1.

    Of stacked experts each has n factors of its own in a fold from one stack to another, and all
    share the n of a norm.

    `kind`: `norm` (weight multiplies), `norm_plus_one` (Gemma: 1 + weight multiplies, so
    large s loses bits), `linear` (rows of W, and the bias where there is one).
    """

    producer: str
    kind: FoldKind
    rows: tuple[tuple[int, int], ...]
    consumers: tuple[str, ...]
    block: int
    repeat: int = 1

    @property
    def takes_factors(self) -> bool:
        """Not where 1 + w multiplies: of a factor over 1, 1 + w' has lost bits in bf16."""
        return self.kind != "norm_plus_one"

    @property
    def channels(self) -> int:
        """Number of independent factors s, n."""
        return sum(stop - start for start, stop in self.rows)

    def producer_rows(self) -> Iterator[int]:
        """Producer row of each of the n channels, in channel order."""
        for start, stop in self.rows:
            yield from range(start, stop)

    def consumer_channels(self) -> list[int]:
        """For each consumer input column, the index (0..n-1) of the factor it takes."""
        channels: list[int] = self._consumer_channels().tolist()
        return channels

    def on_columns(self, factors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Factors [..., n] laid over the consumers' input columns, [..., in]."""
        return factors[..., self._consumer_channels()]

    def on_rows(self, factors: NDArray[np.float32], out: int) -> NDArray[np.float32]:
        """Factors [..., n] laid over the producer's `out` output rows, [..., out]; 1 elsewhere."""
        rows = np.ones((*factors.shape[:-1], out), np.float32)
        rows[..., list(self.producer_rows())] = factors
        return rows

    def _consumer_channels(self) -> NDArray[np.intp]:
        heads = np.arange(self.channels).reshape(-1, self.block)
        return np.repeat(heads, self.repeat, axis=0).ravel()


@dataclass(frozen=True)
class KVLayer:
    """One layer of the KV cache: the attention module that fills it, and its shape.

    `latent_dim` above 0 says that keys and values are cached as one vector (MLA): a latent of
    that many channels, then the rotated part of the key. It is one head; its role is `k`.
    """

    layer: int
    attention: str
    kv_heads: int
    head_dim: int
    latent_dim: int = 0

    @property
    def group(self) -> str:
        """The cache's name among the fused groups."""
        return f"{self.attention}.kv_cache"


@dataclass(frozen=True)
class Structure:
    """What the model is made of.

    `family` is None for an architecture not known by name: then each linear is its own
    group, and nothing is foldable.
    """

    family: str | None
    blocks: tuple[str, ...]
    linears: tuple[Linear, ...]
    groups: tuple[FusedGroup, ...]
    folds: tuple[Fold, ...]
    kv_layers: tuple[KVLayer, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dict of lists, numbers and strings; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Structure:
        """Rebuild from `to_json` (through JSON or not). Raises KeyError or TypeError."""
        return cls(
            family=data["family"],
            blocks=tuple(data["blocks"]),
            linears=tuple(_linear_from_json(row) for row in data["linears"]),
            groups=tuple(FusedGroup(g["name"], tuple(g["members"])) for g in data["groups"]),
            folds=tuple(_fold_from_json(row) for row in data["folds"]),
            kv_layers=tuple(KVLayer(**row) for row in data["kv_layers"]),
        )


def _linear_from_json(row: Mapping[str, Any]) -> Linear:
    return Linear(**{**row, "checkpoint_shards": tuple(row.get("checkpoint_shards", ()))})


def _fold_from_json(row: Mapping[str, Any]) -> Fold:
    rows = tuple((int(start), int(stop)) for start, stop in row["rows"])
    return Fold(**{**row, "rows": rows, "consumers": tuple(row["consumers"])})
