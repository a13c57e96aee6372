"""Profiles with one activation site of chosen numbers, for the tests of analyze and report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.measures import SiteMeasures, measure_sites
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import FusedGroup, Linear, Structure
from fp8scope.profile.record import Profile
from tests.profiles import CHANNELS, Q_INPUT, build, site_record, weight_record


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
    x = gaussian(512, 64)
    x[:, 5] *= np.float32(factor)
    exact = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)  # as bf16 holds it
    return of_values(("a", "b"), exact, exact)


def of_values(tags: tuple[str, ...], *sequences: NDArray[np.float32]) -> Profile:
    record = site_record([(i % len(tags), x) for i, x in enumerate(sequences)], len(tags))
    indices = range(len(sequences))
    return build(indices=indices, tags=tags, sites={Q_INPUT: record}, aliases={})


def of_modules(
    inputs: Mapping[str, NDArray[np.float32]], tags: tuple[str, ...] = ("a", "b")
) -> Profile:
    """A linear, and group, of each name, with a Gaussian weight; every tag's text gives this input.

    Two sequences a tag; nothing folds, and there is no cache.
    """
    width = next(iter(inputs.values())).shape[1]
    matrix = gaussian(width, width, seed=9)
    count = 2 * len(tags)
    sequences = [i % len(tags) for i in range(count)]
    profile = build(
        indices=range(count),
        tags=tags,
        structure=Structure(
            family="llama",
            blocks=("model.layers.0",),
            linears=tuple(Linear(n, width, width, False, False, n, None) for n in inputs),
            groups=tuple(FusedGroup(name, (name,)) for name in inputs),
            folds=(),
            kv_layers=(),
        ),
        sites={
            Site(name, Role.INPUT): site_record([(tag, x) for tag in sequences], len(tags))
            for name, x in inputs.items()
        },
        weights={name: weight_record(matrix) for name in inputs},
        aliases={},
        experts={},
        expert_weights={},
    )
    profile.samples["length"][:] = len(next(iter(inputs.values())))
    return profile


def gaussian(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    """As bf16 holds it."""
    x = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def measured(of: Profile, site: Site = Q_INPUT) -> SiteMeasures:
    (row,) = [row for row in measure_sites(of) if row.site == site]
    return row
