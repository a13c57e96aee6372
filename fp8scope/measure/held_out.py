"""Text to measure on that the calibration has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fp8scope.errors import BadText
from fp8scope.profile.record import Profile
from fp8scope.runtime.loading import context_length, vocabulary_size
from fp8scope.runtime.sources import Source
from fp8scope.runtime.text import Calibration, build_calibration

SAMPLES = 64
REMEDY = "give other text with --held-out [TAG=]FILE"


def held_out_text(
    profile: Profile,
    model: Any,
    tokenizer: Any,
    sources: Sequence[Source] = (),
    samples: int = SAMPLES,
) -> Calibration:
    """Up to `samples` sequences, shared by the tags, of none that the profile was calibrated on.

    They come from `sources` (`parse_source(value, "--held-out")` of each; of the demo
    `demo_held_out()`), or else from what the scan chose its own from. They are cut and chosen as
    the scan did, so that a sequence which it has read is known again; a tag without any other is
    left out.

    Raises BadText (nothing is left, no source can be read again) and as `build_calibration`.
    """
    wanted = list(sources) or _own_sources(profile)
    settings = profile.settings
    used = [digest.decode() for digest in profile.samples["digest"].tolist()]
    try:
        found = build_calibration(
            wanted,
            tokenizer,
            samples=max(samples, len(profile.tags)),
            seq_len=_length(profile),
            seed=int(settings.get("seed", 0)),
            context=context_length(model),
            vocab_size=vocabulary_size(model),
            without=used,
        )
    except BadText as error:
        if sources:
            raise
        raise BadText(f"no text is held out: {error.what}", REMEDY) from error
    read = {source.location: source.sha256 for source in found.sources}
    changed = [
        f"{source['location']} has changed since the scan"
        for source in profile.sources
        if read.get(source["location"], source["sha256"]) != source["sha256"]
    ]
    return replace(found, notes=(*found.notes, *changed))


def _own_sources(profile: Profile) -> list[Source]:
    if "seq_len" not in profile.settings:
        raise BadText("the profile was merged from sequences of several lengths", REMEDY)
    named = [Source(source["tag"], source["location"]) for source in profile.sources]
    if not named or any(source.location == "in memory" for source in named):
        raise BadText("the profile was made from tokens in memory", REMEDY)
    return named


def _length(profile: Profile) -> int:
    """Of the scan's sequences; in a merged profile of the longest."""
    return int(profile.settings.get("seq_len", profile.samples["length"].max(initial=2)))
