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
    """Which windows of a tag to take, in the text's order.

    Each window draws a number from a generator seeded with the seed and the tag's name; the
    `share` smallest are taken. So the choice does not depend on the other tags: adding one
    changes this tag's share at most, and a smaller share is a part of a larger one.
    """
    if share >= available:
        return list(range(available))
    name = int.from_bytes(
        hashlib.blake2b(tag.encode("utf-8", "backslashreplace"), digest_size=8).digest(), "little"
    )
    draws = np.random.Generator(np.random.PCG64([seed, name])).random(available)
    return sorted(int(place) for place in np.argsort(draws, kind="stable")[:share])
