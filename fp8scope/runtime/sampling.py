"""Which windows are taken: an equal share for each tag, and a seeded choice within it."""

import hashlib
from collections.abc import Sequence

import numpy as np


def share_out(wanted: int, available: Sequence[int]) -> list[int]:
    """Share `wanted` equally among those with `available` pieces each.

    What one cannot use goes to the others, a remainder to the first ones. The shares add up to
    min(wanted, sum(available)).
    """
    shares = [0] * len(available)
    left = min(wanted, sum(available))
    while left:
        open_ = [i for i, most in enumerate(available) if shares[i] < most]
        each = left // len(open_)
        if not each:  # the remainder
            open_, each = open_[:left], 1
        for i in open_:
            more = min(each, available[i] - shares[i])
            shares[i] += more
            left -= more
    return shares


def choose(available: int, share: int, seed: int, tag: str) -> list[int]:
    """Which of the `available` windows of a tag to take, in the text's order.

    The `share` first in the drawn order are taken. So the choice does not depend on the other
    tags: adding one changes this tag's share at most, and a smaller share of the same windows is
    a part of a larger one.
    """
    if share >= available:
        return list(range(available))
    return sorted(draw_order(available, seed, tag)[:share])


def draw_order(available: int, seed: int, name: str) -> list[int]:
    """All places in random order: each draws a number from a generator of the seed and the name."""
    text = name.encode("utf-8", "backslashreplace")
    salt = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    draws = np.random.Generator(np.random.PCG64([seed, salt])).random(available)
    return [int(place) for place in np.argsort(draws, kind="stable")]
