"""The tokens at which a site's outliers stand, by what they say."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from fp8scope.analyze.measures import TopValue, top_values
from fp8scope.profile.layout import TOP_LISTS
from fp8scope.profile.record import Profile, SiteRecord

# no letter or digit (`⏎`, and what excerpts spell out as in Python source, are none), or as <eos>
_DELIMITER = re.compile(r"(?:\\(?:[tnrfv0]|x[0-9a-f]{2}|u[0-9a-f]{4})|[\W_])+|<[^<>\s]+>")


@dataclass(frozen=True)
class OutlyingToken:
    """A token's text and where it is an outlier: at the first place of sequences, or elsewhere.

    `text` is "" without an excerpt. `sequences` counts those in the top lists, which keep 32
    values a tag: there may be more.
    """

    text: str
    first: bool
    amax: float
    sequences: int
    tags: tuple[str, ...]

    @property
    def delimiter(self) -> bool:
        """Whether it is punctuation, space, or a special token such as <eos>."""
        return _DELIMITER.fullmatch(self.text) is not None


def outlying_tokens(profile: Profile, record: SiteRecord, level: float) -> list[OutlyingToken]:
    """The tokens with a value of `level` or more, the largest first."""
    found: dict[tuple[str, bool], list[TopValue]] = defaultdict(list)
    for tag in range(record.tags):
        for which in range(len(TOP_LISTS)):
            for value in top_values(profile, record.top(tag, which)):
                if abs(value.value) >= level:
                    found[value.token, value.position == 0].append(value)
    tokens = [
        OutlyingToken(
            text,
            first,
            max(abs(value.value) for value in values),
            len({value.sample for value in values}),
            tuple(tag for tag in profile.tags if any(value.tag == tag for value in values)),
        )
        for (text, first), values in found.items()
    ]
    return sorted(tokens, key=lambda token: (-token.amax, token.text))
