"""What every budget would buy: the corners of the convex hull of (time, KL) over all plans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fp8scope.plan.problem import Problem, Way

MOST_POINTS = 40


class Point(NamedTuple):
    """A plan: nats per token, bits of all weights, µs of a step, and groups in BF16."""

    kl: float
    bits: float
    time_us: float
    bf16_groups: int


def frontier(problem: Problem) -> list[Point]:
    """From the fastest plan to the one without loss, at most `MOST_POINTS`, both ends among them.

    Each is the best there is at its own time: clusters take their next corner in the order of what
    a µs buys (Sinha and Zoltners, The Multiple-Choice Knapsack Problem, 1979).
    """
    corners = [_corners(ways) for ways in problem.ways]
    steps = [
        ((before.kl - after.kl) / (after.time_us - before.time_us), cluster, number)
        for cluster, own in enumerate(corners)
        for number, (before, after) in enumerate(pairwise(own), start=1)
    ]
    steps.sort(key=lambda step: (-step[0], step[1], step[2]))
    points = list(_walk(problem, corners, [(cluster, number) for _, cluster, number in steps]))
    if len(points) <= MOST_POINTS:
        return points
    kept = np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))
    return [points[i] for i in kept]


def _walk(
    problem: Problem, corners: Sequence[Sequence[Way]], steps: Sequence[tuple[int, int]]
) -> Iterator[Point]:
    at = [own[0] for own in corners]
    yield _point(problem, at)
    for cluster, number in steps:
        at[cluster] = corners[cluster][number]
        yield _point(problem, at)


def _point(problem: Problem, ways: Sequence[Way]) -> Point:
    groups = sum(len(cluster.units) for cluster in problem.clusters)
    caches = {cache.group for cluster in problem.clusters for cache in cluster.caches}
    quantized = {term.group for way in ways for term in way.terms} - caches
    return Point(
        sum(way.kl for way in ways),
        sum(way.bits for way in ways),
        sum(way.time_us for way in ways),
        groups - len(quantized),
    )


def _corners(ways: Sequence[Way]) -> list[Way]:
    """The lower convex hull of a cluster's (time, KL), the fastest first."""
    hull: list[Way] = []
    for way in sorted(ways, key=lambda way: (way.time_us, way.kl)):
        if hull and way.kl >= hull[-1].kl:
            continue  # slower, and no better
        while len(hull) > 1 and _above(hull[-2], hull[-1], way):
            hull.pop()
        if hull and way.time_us == hull[-1].time_us:
            continue
        hull.append(way)
    return hull


def _above(left: Way, middle: Way, right: Way) -> bool:
    """Whether the middle lies on or above the line between the others."""
    run, rise = right.time_us - left.time_us, right.kl - left.kl
    return (middle.kl - left.kl) * run >= rise * (middle.time_us - left.time_us)
