"""Profiles with one activation site of chosen numbers, for the tests of analyze and report."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.measures import SiteMeasures, measure_sites
from fp8scope.core.sites import Site
from fp8scope.profile.record import Profile
from tests.profiles import CHANNELS, Q_INPUT, build, site_record


def of_amax(tags: tuple[str, ...], *amax: float) -> Profile:
    """Ones, and -amax at token 2, channel 3: one sequence per amax, sample i of tag i mod tags."""
    sequences = []
    for value in amax:
        x = np.ones((4, CHANNELS), np.float32)
        x[2, 3] = -value
        sequences.append(x)
    return of_values(tags, *sequences)


def with_outlier(factor: float) -> Profile:
    """A Gaussian body of which one channel of 64 is `factor` times as large."""
    x = np.random.default_rng(0).standard_normal((512, 64)).astype(np.float32)
    x[:, 5] *= np.float32(factor)
    exact = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)  # as bf16 holds it
    return of_values(("a", "b"), exact, exact)


def of_values(tags: tuple[str, ...], *sequences: NDArray[np.float32]) -> Profile:
    record = site_record([(i % len(tags), x) for i, x in enumerate(sequences)], len(tags))
    indices = range(len(sequences))
    return build(indices=indices, tags=tags, sites={Q_INPUT: record}, aliases={})


def measured(of: Profile, site: Site = Q_INPUT) -> SiteMeasures:
    (row,) = [row for row in measure_sites(of) if row.site == site]
    return row
