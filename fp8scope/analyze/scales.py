"""Static scales and smoothing factors as they follow from a profile: what an engine would load.

One scale serves a GEMM's input, that of all its text and of all experts; one scale per tensor
serves the weights of a GEMM's members together (the fused group's max, which engines take at load).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fp8scope.core.choices import value_folds
from fp8scope.core.gemms import Gemm, routers
from fp8scope.core.sites import Role, Site
from fp8scope.core.smoothing import smoothing_factors
from fp8scope.core.structure import Fold, KVLayer
from fp8scope.profile.record import Profile

Float32 = NDArray[np.float32]


class Scales:
    """Answers from one profile; what it has computed it keeps."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._factors: dict[tuple[Fold, float], Float32] = {}
        self._columns: dict[tuple[Fold, float], Float32] = {}
        self._rows: dict[tuple[Fold, float, int], Float32] = {}
        self._channels: dict[Site, Float32] = {}
        self._amax: dict[Fold, tuple[Float32, Float32]] = {}
        self._values = value_folds(profile.structure)
        self._routers = routers(profile.structure)

    def seen(self, gemm: Gemm) -> bool:
        """Whether the profile holds this GEMM's input: not where the text never reached it."""
        return self._profile.owner(Site(gemm.members[0], Role.INPUT)) in self._profile.sites

    def input_amax(self, gemm: Gemm, alpha: float | None = None) -> float:
        """Largest |x| of the input, or of the smoothed input x / s."""
        channels = self.channels(gemm.members[0])
        factors = self.columns(gemm, alpha)
        if factors is None:
            return float(channels.max())
        if factors.ndim == 2:
            channels = self._expert_channels(gemm.members[0])
        return float((channels / factors).max())

    def channels(self, module: str) -> Float32:
        """Largest |x| of each input channel over all text, [in]."""
        site = self._profile.owner(Site(module, Role.INPUT))
        if site not in self._channels:
            self._channels[site] = self._profile.sites[site].channel_amax.max(axis=0)
        return self._channels[site]

    def columns(self, gemm: Gemm, alpha: float | None) -> Float32 | None:
        """Factors that divide the input and multiply the columns of W, [in] or [experts, in]."""
        fold = gemm.input_fold
        if alpha is None or fold is None:
            return None
        if (fold, alpha) not in self._columns:
            self._columns[fold, alpha] = fold.on_columns(self.factors(fold, alpha))
        return self._columns[fold, alpha]

    def rows(self, gemm: Gemm, member: str, folded: float | None, out: int) -> Float32 | None:
        """Factors that divide the `out` rows of a member's W, [out] or [experts, out]."""
        fold = gemm.output_folds.get(member)
        if folded is None or fold is None:
            return None
        if (fold, folded, out) not in self._rows:
            self._rows[fold, folded, out] = fold.on_rows(self.factors(fold, folded), out)
        return self._rows[fold, folded, out]

    def factors(self, fold: Fold, alpha: float) -> Float32:
        """The factors of a fold, [channels]; [experts, channels] between two stacks of experts."""
        if (fold, alpha) not in self._factors:
            if fold not in self._amax:
                self._amax[fold] = self._fold_amax(fold)
            self._factors[fold, alpha] = smoothing_factors(*self._amax[fold], alpha)
        return self._factors[fold, alpha]

    def _fold_amax(self, fold: Fold) -> tuple[Float32, Float32]:
        """Largest |x| and |W| of each channel of the fold."""
        profile = self._profile
        stacked = fold.kind == "linear" and fold.consumers[0] in profile.expert_weights
        if stacked:
            inputs = self._expert_channels(fold.consumers[0])
            columns = profile.expert_weights[fold.consumers[0]].column_amax
        else:
            inputs = self.channels(fold.consumers[0])
            read = [name for name in fold.consumers if name not in self._routers]
            columns = np.max([profile.weights[name].column_amax for name in read], axis=0)
        channel = fold.consumer_channels()
        shape = (*inputs.shape[:-1], fold.channels)
        largest = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for target, amax in zip(largest, (inputs, columns), strict=True):
            np.maximum.at(target.T, channel, amax.T)
        return largest

    def _expert_channels(self, stack: str) -> Float32:
        site = Site(stack, Role.INPUT)
        return self._profile.experts[site].channel_amax

    def cache_factors(self, layer: KVLayer, role: Role, folded: float | None) -> Float32 | None:
        """Factors that divide what the cache holds of a role: values, or the latent (MLA) with its
        rotated key, which is not divided (by 1); [kv_heads * head_dim].
        """
        fold = self._values.get(layer.group)
        divided = Role.K if layer.latent_dim else Role.V
        if folded is None or fold is None or role is not divided:
            return None
        factors = self.factors(fold, folded)
        rotated = layer.head_dim - layer.latent_dim if layer.latent_dim else 0
        return np.concatenate([factors, np.ones(rotated, np.float32)])

    def cache_amax(self, layer: KVLayer, role: Role, folded: float | None = None) -> float:
        """Largest |k| or |v| that the layer's cache receives under a fold of what it holds."""
        channels = self._profile.sites[Site(layer.attention, role)].channel_amax.max(axis=0)
        factors = self.cache_factors(layer, role, folded)
        return float((channels if factors is None else channels / factors).max())
