"""What is asked of a plan: a limit on one of KL, bits or time; and what the presets mean.

With a limit on the KL the step is made as short as it can be; with a limit on bits (or time) the KL
is made as small as it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from fp8scope.plan.problem import Way


class Limit(StrEnum):
    """What is limited: `kl` in nats per token, `bits` of all weights that are decided on (in sum),
    `time_us` of a step.
    """

    KL = "kl"
    BITS = "bits"
    TIME = "time_us"


@dataclass(frozen=True)
class Objective:
    """At most `value` of what is limited."""

    limit: Limit
    value: float


class Preset(NamedTuple):
    """A KL budget: `times` what FP8's plain rounding costs this model, but never under `least`.

    No cluster's rounding counts for more than `typical` times that of the median cluster: what is
    beyond is no rounding that one has to live with, and BF16 may be spent on it.
    """

    times: float
    least: float
    typical: float


PRESETS = {
    "safe": Preset(times=1.0, least=0.002, typical=3.0),
    "balanced": Preset(times=1.2, least=0.005, typical=10.0),
    "fast": Preset(times=2.0, least=0.02, typical=30.0),
}
DEFAULT_PRESET = "balanced"


def rounding_nats(
    free: Sequence[Sequence[Way]], asked: Sequence[Sequence[Way]], typical: float
) -> float:
    """What rounding alone costs the model: the sum of each cluster's cheapest way wholly in FP8.

    Nothing that takes outliers away (dynamic scales, smoothing) takes rounding away, so `free` are
    the ways where nothing is asked for. A cluster that may not leave FP8 counts for all that it
    costs in the ways that were `asked` for.
    """
    least = []
    for own in free:
        bits = min(way.bits for way in own)
        least.append(min(way.kl for way in own if way.bits == bits))
    used = [kl for kl in least if kl > 0]
    most = typical * float(np.median(used)) if used else 0.0
    kept = [min(way.kl for way in own) for own in asked]
    return sum(max(min(kl, most), own) for kl, own in zip(least, kept, strict=True))


def budget(preset: Preset, free: Sequence[Sequence[Way]], asked: Sequence[Sequence[Way]]) -> float:
    """The KL budget of a preset, in nats per token; see `rounding_nats`."""
    return max(preset.least, preset.times * rounding_nats(free, asked, preset.typical))
