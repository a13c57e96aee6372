"""One GEMM in a candidate, as fake quantization in the model's own coordinates.

With smoothing the engine computes Q(x/s) @ Q(W·s/r).T, and the reader of its rows expects them
divided by r. Undoing s and r around the rounding gives s·Q(x/s) and Q(W·s/r)·r/s, which take the
place of x and W: the fold itself never touches the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.analyze.scales import Scales
from fp8scope.core.choices import Part, Term
from fp8scope.core.formats import E4M3
from fp8scope.core.gemms import Gemm, Unit, units
from fp8scope.core.schemes import CANDIDATES, TENSOR, Scheme
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import KVLayer
from fp8scope.profile.record import Profile
from fp8scope.runtime.fake_quant import fake_quantize, rounding_error
from fp8scope.runtime.linears import linear_weights

STATIC_E4M3 = Scheme(E4M3, TENSOR, static=True)


class QuantizedGemm:
    """The `members` of one GEMM, [out, in] or [experts, out, in], and what each term makes of them
    and of their input.
    """

    def __init__(self, gemm: Gemm, weights: Mapping[str, Tensor], scales: Scales) -> None:
        self.gemm = gemm
        self.members = [weights[name].detach() for name in gemm.members]
        self._scales = scales

    def input(self, x: Tensor, term: Term, expert: int | None = None) -> Tensor:
        """`x` [tokens, in] as the GEMM reads it, float32; of a stack, for one expert."""
        scheme = CANDIDATES[term.candidate].input
        if scheme is None or term.part is Part.WEIGHT:
            return x.float()
        amax = self._scales.input_amax(self.gemm, term.alpha) if scheme.static else None
        factors = _of(self._scales.columns(self.gemm, term.alpha), expert, x.device)
        if factors is None:
            return fake_quantize(x, scheme, amax)
        return fake_quantize(x.float() / factors, scheme, amax).mul_(factors)

    def true_weights(self, expert: int | None = None) -> list[Tensor]:
        """Each member's own weight [out, in]; of one expert of a stack."""
        return [weight if expert is None else weight[expert] for weight in self.members]

    def weights(self, term: Term, expert: int | None = None) -> list[Tensor]:
        """Each member's weight [out, in] as the GEMM reads it, float32."""
        scheme, members = _weight_scheme(term), self.true_weights(expert)
        if scheme is None:
            return [weight.float() for weight in members]
        return self._quantized(members, scheme, term, expert)

    def weight_error(self, term: Term, expert: int | None = None) -> list[Tensor]:
        """Quantized less true weight of each member, [out, in] float32.

        Zero where the term leaves the weight as it is.
        """
        scheme, members = _weight_scheme(term), self.true_weights(expert)
        if scheme is None:
            return [torch.zeros_like(weight, dtype=torch.float32) for weight in members]
        return self._quantized(members, scheme, term, expert, error=True)

    def _quantized(
        self,
        members: list[Tensor],
        scheme: Scheme,
        term: Term,
        expert: int | None,
        *,
        error: bool = False,
    ) -> list[Tensor]:
        """One scale for all members, where there is one for the tensor; tiles of each by itself."""
        factors = [
            self._factors(term, name, weight, expert)
            for name, weight in zip(self.gemm.members, members, strict=True)
        ]
        scaled = [
            weight if factor is None else weight.float() * factor
            for weight, factor in zip(members, factors, strict=True)
        ]
        amax = None
        if scheme.tile == TENSOR or scheme.scale_format is not None:
            amax = max(float(weight.abs().max()) for weight in scaled)
        cast = rounding_error if error else fake_quantize
        found = [cast(weight, scheme, amax) for weight in scaled]
        return [
            weight if factor is None else weight.div_(factor)
            for weight, factor in zip(found, factors, strict=True)
        ]

    def _factors(
        self, term: Term, member: str, weight: Tensor, expert: int | None
    ) -> Tensor | None:
        """Factors of the columns over those of the rows, broadcast to the weight."""
        columns = _of(self._scales.columns(self.gemm, term.alpha), expert, weight.device)
        folded = term.alpha if self.gemm.experts else term.folded
        rows = self._scales.rows(self.gemm, member, folded, len(weight))
        divisors = _of(rows, expert, weight.device)
        if divisors is None:
            return columns
        inverse = (1 / divisors)[:, None]
        return inverse if columns is None else columns * inverse


def _weight_scheme(term: Term) -> Scheme | None:
    """How a term quantizes weights; None where it leaves them as they are."""
    return None if term.part is Part.INPUT else CANDIDATES[term.candidate].weight


def _of(
    factors: NDArray[np.float32] | None, expert: int | None, device: torch.device
) -> Tensor | None:
    """The factors as a tensor; those of one expert, where each has its own."""
    if factors is None:
        return None
    own = factors[expert] if expert is not None and factors.ndim == 2 else factors
    return torch.from_numpy(np.ascontiguousarray(own)).to(device)


class QuantizedCache:
    """The KV cache of one layer in FP8: a scale for K and one for V, or 1 for both."""

    def __init__(self, layer: KVLayer, scales: Scales) -> None:
        self.layer = layer
        self._scales = scales

    def quantize(self, role: Role, values: Tensor, term: Term) -> Tensor:
        """K or V [B, heads, T, channels] as read back from the cache, float32; under latent
        attention the latent is K and the rotated key V.

        Under a fold of the values, or of the latent, the cache holds them divided by its factors.
        """
        latent = self.layer.latent_dim
        held = Role.K if latent else role  # a latent is one vector, with one scale
        factors = self._scales.cache_factors(self.layer, held, term.folded)
        amax = self._scales.cache_amax(self.layer, held, term.folded)
        if latent and factors is not None:
            factors = factors[:latent] if role is Role.K else factors[latent:]
        if term.candidate == "fp8_unit":
            amax = E4M3.max
        if factors is None:
            return fake_quantize(values, STATIC_E4M3, amax)
        by_head = torch.from_numpy(factors).to(values.device)
        by_head = by_head.view(values.shape[1], 1, values.shape[3])
        return fake_quantize(values.float() / by_head, STATIC_E4M3, amax).mul_(by_head)


@dataclass(frozen=True)
class QuantizedParts:
    """All of a model that can be quantized under the static scales of its profile.

    `units` and `layers` are the fused groups and the KV layers that the profile's text reached;
    `gemms` are by their members, `caches` by the number of their layer.
    """

    units: tuple[Unit, ...]
    layers: tuple[KVLayer, ...]
    gemms: Mapping[tuple[str, ...], QuantizedGemm]
    caches: Mapping[int, QuantizedCache]

    @classmethod
    def of(cls, model: Any, profile: Profile) -> QuantizedParts:
        """Of the model whose profile it is."""
        scales, weights = Scales(profile), linear_weights(model)
        found = [unit for unit in units(profile.structure) if all(map(scales.seen, unit.gemms))]
        layers = [
            layer
            for layer in profile.structure.kv_layers
            if Site(layer.attention, Role.K) in profile.sites
        ]
        return cls(
            tuple(found),
            tuple(layers),
            {g.members: QuantizedGemm(g, weights, scales) for unit in found for g in unit.gemms},
            {layer.layer: QuantizedCache(layer, scales) for layer in layers},
        )
