"""A site: the place in a model where a tensor was looked at."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """Which tensor of the module. K and V are what the KV cache receives, per KV head."""

    INPUT = "input"
    WEIGHT = "weight"
    OUTPUT = "output"
    RESIDUAL = "residual"
    K = "k"
    V = "v"


class Site(NamedTuple):
    """Module name + role: `model.layers.3.mlp.down_proj` × `input`."""

    module: str
    role: Role

    def __str__(self) -> str:
        return f"{self.module} {self.role}"
