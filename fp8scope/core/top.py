"""The k largest values of a tensor with their coordinates, in one total order.

Order: larger |value| first, then smaller sample, position, channel. A total order makes the
list independent of the order in which batches arrive, so that lists merge exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Top:
    """n entries, best first. `value` keeps its sign. Each array is [n]."""

    value: NDArray[np.float32]
    sample: NDArray[np.int32]
    position: NDArray[np.int32]
    channel: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def empty(cls) -> Top:
        """No entries."""
        none = np.empty(0, np.int32)
        return cls(np.empty(0, np.float32), none, none, none)

    def rank(self) -> NDArray[np.intp]:
        """Indices that put the entries in order."""
        return np.lexsort((self.channel, self.position, self.sample, -np.abs(self.value)))

    def take(self, index: NDArray[np.intp]) -> Top:
        """The entries at these indices."""
        return Top(*(getattr(self, field.name)[index] for field in fields(self)))


def merge_top(first: Top, second: Top, k: int) -> Top:
    """The k best of both lists together."""
    both = Top(
        *(
            np.concatenate((getattr(first, field.name), getattr(second, field.name)))
            for field in fields(Top)
        )
    )
    return both.take(both.rank()[:k])
