"""Which routed experts the calibration has reached: what is known of the others is little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.thresholds import STARVED_TOKENS
from fp8scope.profile.record import Profile


@dataclass(frozen=True)
class Load:
    """Tokens that the router sent to each expert of a layer, [experts]; of one tag or all.

    `dead` experts got none, `starved` ones fewer than `STARVED_TOKENS`.
    """

    tokens: NDArray[np.int64]

    @property
    def dead(self) -> list[int]:
        """Numbers of the experts without a token."""
        found: list[int] = np.flatnonzero(self.tokens == 0).tolist()
        return found

    @property
    def starved(self) -> list[int]:
        """Numbers of the experts with some tokens, but too few."""
        few = (self.tokens > 0) & (self.tokens < STARVED_TOKENS)
        found: list[int] = np.flatnonzero(few).tolist()
        return found


@dataclass(frozen=True)
class Coverage:
    """The routed experts of one module, over all tags and by tag."""

    module: str
    whole: Load
    tags: Mapping[str, Load]

    @property
    def severity(self) -> tuple[int, int]:
        """Smaller is worse: more dead experts, then more starved ones."""
        return -len(self.whole.dead), -len(self.whole.starved)


def expert_coverage(profile: Profile) -> list[Coverage]:
    """One per module of routed experts, the worst first; empty for a model without."""
    tokens = {}
    for site in profile.experts:
        module = site.module.rpartition(".")[0]
        if module not in tokens:  # both matmuls have the same routing
            tokens[module] = profile.experts[site].tokens
    found = [
        Coverage(
            module, Load(counts.sum(0)), dict(zip(profile.tags, map(Load, counts), strict=True))
        )
        for module, counts in tokens.items()
    ]
    return sorted(found, key=lambda coverage: coverage.severity)
