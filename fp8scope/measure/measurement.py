"""What a plan was measured to do to a model on text: KL, perplexity and agreement.

Sums are kept by sequence. A tag's numbers are sums over tokens, and the whole is their mean,
weighted by the tags' tokens in the calibration, as `analyze.sensitivity` weighs what it predicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.ratios import Nats, Ratios, Sampled
from fp8scope.observe.divergence import Moved
from fp8scope.profile.record import Profile
from fp8scope.runtime.text import Calibration

Float64 = NDArray[np.float64]

SURE = 2.0
"""Standard errors within which two numbers are the same."""


@dataclass(frozen=True)
class Measured:
    """One tag, or all.

    `kl`: KL(true ‖ plan) of the next-token distributions, nats per token. `true_perplexity` is the
    model's own and `perplexity` that under the plan, of the same tokens: all but each sequence's
    first. `log_change` is ln(perplexity / true_perplexity), paired by sequence. `agreement`: the
    share of positions whose most probable token stays, [0, 1].
    """

    kl: Nats
    true_perplexity: float
    perplexity: float
    log_change: Nats
    agreement: float
    tokens: int
    sequences: int

    def to_json(self) -> dict[str, Any]:
        """Plain values; None for what is not finite."""
        return {
            "kl_nats": _finite(self.kl.kl),
            "kl_error_nats": _finite(self.kl.error),
            "true_perplexity": _finite(self.true_perplexity),
            "perplexity": _finite(self.perplexity),
            "log_perplexity_change": _finite(self.log_change.kl),
            "log_perplexity_change_error": _finite(self.log_change.error),
            "top1_agreement": _finite(self.agreement),
            "tokens": self.tokens,
            "sequences": self.sequences,
        }


@dataclass(frozen=True)
class Measurement:
    """One plan on one text: `whole`, and each tag by itself.

    `text_digest` is that of the text, `sources` what was read for it, see `SourceRecord`.
    """

    whole: Measured
    tags: Mapping[str, Measured]
    text_digest: str
    sources: tuple[Mapping[str, Any], ...]

    @property
    def kl(self) -> float:
        """KL(true ‖ plan) in nats per token; infinite where it is not a number."""
        return math.inf if math.isnan(self.whole.kl.kl) else self.whole.kl.kl

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **self.whole.to_json(),
            "tags": {tag: found.to_json() for tag, found in self.tags.items()},
            "text": {"digest": self.text_digest, "sources": [dict(s) for s in self.sources]},
        }

    @classmethod
    def of(cls, moved: Moved, text: Calibration, profile: Profile) -> Measurement:
        """From the sums of each sequence of `text`, in its order."""
        lengths = np.array([len(sample.tokens) for sample in text.samples], np.float64)
        tags = np.array([sample.tag for sample in text.samples])
        strata = [np.flatnonzero(tags == i) for i in range(len(text.tags))]
        weights = tag_weights(text, profile)
        nats = np.stack((moved.true_nats, moved.other_nats, moved.other_nats - moved.true_nats))
        order = range(len(strata))
        with np.errstate(divide="ignore", invalid="ignore"):  # sequences of a single token
            positions = Ratios(
                np.stack((moved.kl, moved.agreed)), Sampled(lengths, strata, weights, order)
            )
            predicted = Ratios(nats, Sampled(lengths - 1, strata, weights, order))

        def measured(chosen: NDArray[np.intp], tag: int | None = None) -> Measured:
            kl, agreed = (_ratio(positions, row, tag) for row in range(2))
            true, other, change = (_ratio(predicted, row, tag) for row in range(3))
            tokens = int(lengths[chosen].sum())
            true_perplexity, perplexity = _exp(true.kl), _exp(other.kl)
            return Measured(kl, true_perplexity, perplexity, change, agreed.kl, tokens, len(chosen))

        return cls(
            measured(np.arange(len(lengths))),
            {name: measured(strata[i], i) for i, name in enumerate(text.tags)},
            text.digest,
            tuple(asdict(source) for source in text.sources),
        )


@dataclass(frozen=True)
class Comparison:
    """A KL that was predicted against the one that was measured, nats per token."""

    predicted: Nats
    measured: Nats

    @property
    def ratio(self) -> float:
        """Measured over predicted; not a number where nothing was predicted and nothing found."""
        if self.predicted.kl:
            return self.measured.kl / self.predicted.kl
        return math.inf if self.measured.kl else math.nan

    @property
    def agrees(self) -> bool:
        """Whether the two are within two standard errors of both; an unknown error counts as 0."""
        error = np.hypot(*(np.nan_to_num(found.error) for found in (self.predicted, self.measured)))
        return bool(abs(self.measured.kl - self.predicted.kl) <= SURE * error)

    def to_json(self) -> dict[str, Any]:
        """Plain values; None for what is not finite."""
        return {
            "predicted_kl_nats": _finite(self.predicted.kl),
            "predicted_kl_error_nats": _finite(self.predicted.error),
            "measured_over_predicted": _finite(self.ratio),
            "within_two_errors": self.agrees,
        }


def tag_weights(text: Calibration, profile: Profile) -> Float64:
    """What each tag of `text` counts in the whole: its tokens in the calibration, [tags].

    Where the calibration lacks one of them, all count by their tokens in `text`.
    """
    lengths: dict[str, int] = dict.fromkeys(profile.tags, 0)
    for tag, length in zip(profile.samples["tag"], profile.samples["length"], strict=True):
        lengths[profile.tags[tag]] += int(length)
    if unknown_tags(text.tags, profile):
        lengths = dict.fromkeys(text.tags, 0)
        for sample in text.samples:
            lengths[text.tags[sample.tag]] += len(sample.tokens)
    return np.array([lengths[tag] for tag in text.tags], np.float64)


def unknown_tags(tags: Sequence[str], profile: Profile) -> list[str]:
    """Those that the calibration did not hold."""
    return [tag for tag in tags if tag not in profile.tags]


def _ratio(ratios: Ratios, row: int, tag: int | None) -> Nats:
    return ratios.whole(row) if tag is None else ratios.of(row, tag)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else nats * math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
