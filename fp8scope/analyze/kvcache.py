"""Is the KV cache safe in FP8, layer by layer: one static scale each for K and for V.

Engines cast K and V per tensor and layer (no scale per token, none per head), with a calibrated
scale or, without one, with 1.0. One scale for all heads is what hurts a head that is small beside
another, so each head is judged under its layer's scale. Nothing smooths a cache: a layer that is
not safe keeps its cache in BF16.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from fp8scope.analyze.sensitivity import Score, Scores
from fp8scope.analyze.thresholds import (
    DAMAGED_DB,
    FLOOR_DB,
    HARM_NATS,
    LOW_HEADROOM,
    NOISE_UNDERFLOW,
)
from fp8scope.core.error import QuantError, quantization_error
from fp8scope.core.formats import E4M3
from fp8scope.core.sites import Role, Site
from fp8scope.profile.record import Profile, SiteRecord

UNIT_SCALE = 1.0


class Safety(StrEnum):
    """Safe: at the rounding floor, nothing clipped. Unsafe: damaged, or clipped by over 20%."""

    SAFE = "safe"
    MARGINAL = "marginal"
    UNSAFE = "unsafe"


@dataclass(frozen=True)
class HeadError:
    """One KV head under the one scale of its layer."""

    head: int
    amax: float
    error: QuantError


@dataclass(frozen=True)
class CachedTensor:
    """K or V of one layer: under its calibrated scale (amax / 448), by head, and under scale 1.

    `heads` come with the lowest body SQNR first.
    """

    site: Site
    amax: float
    calibrated: QuantError
    unit: QuantError
    heads: tuple[HeadError, ...]

    @property
    def lowest_db(self) -> float:
        """Body SQNR of the worst head, or of the whole where it is lower."""
        return min(self.calibrated.body_sqnr_db, *(h.error.body_sqnr_db for h in self.heads))

    @property
    def calibrated_safety(self) -> Safety:
        """With a calibrated scale: by the worst head."""
        return _safety(self.lowest_db)

    @property
    def unit_safety(self) -> Safety:
        """With scale 1: by the body of the whole, by what is clipped and what underflows."""
        if self.amax * LOW_HEADROOM > E4M3.max * UNIT_SCALE:
            return Safety.UNSAFE
        safety = _safety(self.unit.body_sqnr_db)
        touched = self.unit.saturated > 0 or self.unit.underflow_rate >= NOISE_UNDERFLOW
        return Safety.MARGINAL if safety is Safety.SAFE and touched else safety


@dataclass(frozen=True)
class CachedLayer:
    """The KV cache of one attention module. Latent attention (MLA) caches K alone.

    `kl` and `unit_kl`: what casting this layer's cache costs, with calibrated scales and with
    scale 1; None where the profile was not scored. They count before all else: harmful is unsafe,
    and a damaged tensor that does no harm is marginal.
    """

    module: str
    tensors: tuple[CachedTensor, ...]
    kl: Score | None
    unit_kl: Score | None

    @property
    def calibrated_safety(self) -> Safety:
        """With calibrated scales."""
        return _judged((t.calibrated_safety for t in self.tensors), self.kl)

    @property
    def unit_safety(self) -> Safety:
        """With scale 1."""
        return _judged((t.unit_safety for t in self.tensors), self.unit_kl)

    @property
    def worst(self) -> CachedTensor:
        """K or V, whichever has the lowest head."""
        return min(self.tensors, key=lambda tensor: tensor.lowest_db)

    @property
    def severity(self) -> tuple[float, float]:
        """Smaller is worse: KL where it is known, then the lowest body SQNR."""
        return -(self.kl.kl if self.kl else 0.0), min(self.worst.lowest_db, FLOOR_DB)


def kv_cache(profile: Profile) -> list[CachedLayer]:
    """One per attention module, the worst first; empty for a model without a KV cache."""
    scores = Scores(profile) if profile.sensitivity else None
    groups = {layer.attention: layer.group for layer in profile.structure.kv_layers}
    by_module: dict[str, list[CachedTensor]] = {}
    for site in profile.sites:
        if site.role in (Role.K, Role.V):
            tensors = by_module.setdefault(site.module, [])
            tensors.append(_tensor(site, profile.sites[site]))
    layers = []
    for module, tensors in by_module.items():
        found = scores.candidates(groups[module]) if scores and module in groups else {}
        kls = (found.get(name) for name in ("fp8_tensor", "fp8_unit"))
        layers.append(CachedLayer(module, tuple(tensors), *kls))
    return sorted(layers, key=lambda layer: layer.severity)


def _tensor(site: Site, record: SiteRecord) -> CachedTensor:
    whole = record.magnitudes()
    scale = float(E4M3.scale(whole.amax))
    heads = []
    for head in range(record.heads):
        histogram = record.head_magnitudes(head)
        error = quantization_error(histogram, E4M3, scale)
        heads.append(HeadError(head, histogram.amax, error))
    return CachedTensor(
        site=site,
        amax=whole.amax,
        calibrated=quantization_error(whole, E4M3, scale),
        unit=quantization_error(whole, E4M3, UNIT_SCALE),
        heads=tuple(sorted(heads, key=lambda head: head.error.body_sqnr_db)),
    )


def _safety(body_db: float) -> Safety:
    if body_db < DAMAGED_DB:
        return Safety.UNSAFE
    return Safety.SAFE if body_db >= FLOOR_DB else Safety.MARGINAL


def _judged(tensors: Iterable[Safety], score: Score | None) -> Safety:
    """The worse of K and V; by what it costs, where that is known."""
    worse = max(tensors, key=list(Safety).index)
    if score is None:
        return worse
    if score.kl >= HARM_NATS:
        return Safety.UNSAFE
    return min(worse, Safety.MARGINAL, key=list(Safety).index)
