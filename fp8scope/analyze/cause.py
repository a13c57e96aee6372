"""Why E4M3 with one scale per tensor suffers at a site, from the profile alone.

A cause says where the largest values stand and what takes them out of the scale. Whether the
model suffers from them is another question, which the KL answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.detail import Line, largest_lines
from fp8scope.analyze.folds import fold_into, fold_out_of, is_gated_product
from fp8scope.analyze.outlying import OutlyingToken, outlying_tokens
from fp8scope.analyze.thresholds import FEW_TOKENS, OUTLIER_RATIO, STANDS_OUT, USUAL
from fp8scope.core.histogram import Histogram
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import Fold
from fp8scope.profile.record import Profile, SiteRecord

MOST = 5  # lines and tokens that are named


class Cause(StrEnum):
    """What the largest values of a site are, in the order of decision."""

    FIRST_TOKEN = "first_token"  # noqa: S105
    DELIMITER = "delimiter"
    OTHER_TOKEN = "other_token"  # noqa: S105
    WEIGHT_ROW = "weight_row"
    WEIGHT_COLUMN = "weight_column"
    PRODUCT_CHANNEL = "product_channel"
    FIXED_CHANNEL = "fixed_channel"
    ROUNDING = "rounding"


class Remedy(StrEnum):
    """What takes the outliers out of the scale.

    `per_token`: dynamic scales, one per token. `smooth`: channels divided in the fold's producer
    and multiplied into its consumers' weights. `unfold`: the reverse, for a weight's columns.
    `per_channel`: one scale per output channel of the weight. `bf16`: nothing cheaper is known.
    `none`: there is no outlier; BF16 only if the KL does not fit the budget.
    """

    PER_TOKEN = "per_token"  # noqa: S105
    SMOOTH = "smooth"
    UNFOLD = "unfold"
    PER_CHANNEL = "per_channel"
    BF16 = "bf16"
    NONE = "none"


TOKEN_CAUSES = (Cause.FIRST_TOKEN, Cause.DELIMITER, Cause.OTHER_TOKEN)


@dataclass(frozen=True)
class SiteCause:
    """The cause at one site, its evidence and its remedy.

    `ratio` is amax / rms_body. `usual_ratio` is what three in four tokens (of a weight: rows or
    columns) stay under, over rms_body too. `lines` are the channels (rows, columns) that stand
    out, largest first, at most 5; `tokens`, of token causes only, those at which the outliers are:
    all that is within 8× of the amax. `tags` and `sequences` (a number) say which texts hold some.
    `fold` is where a `smooth` or `unfold` goes, into its producer; of a weight's row, which may be
    divided instead of having a scale of its own, the fold that carries it to the consumer.
    """

    site: Site
    cause: Cause
    ratio: float
    usual_ratio: float = 0.0
    remedy: Remedy = Remedy.NONE
    fold: Fold | None = None
    lines: tuple[Line, ...] = ()
    tokens: tuple[OutlyingToken, ...] = ()
    tags: tuple[str, ...] = ()
    sequences: int = 0

    @property
    def axis(self) -> str:
        """What `lines` are: channel, row (output channel) or column (input channel)."""
        weight = {Cause.WEIGHT_ROW: "row", Cause.WEIGHT_COLUMN: "column"}
        return weight.get(self.cause, "channel")


def site_cause(profile: Profile, site: Site) -> SiteCause:
    """The cause at a site. Raises KeyError for a site that the profile does not hold."""
    if site.role is Role.WEIGHT:
        return _of_weight(profile, site)
    record = profile.site(site)
    whole, usual = record.magnitudes(), _usual_token(record)
    rounding = _rounding(site, whole, usual)
    if rounding.ratio < OUTLIER_RATIO:
        return rounding
    level, fold = whole.amax / STANDS_OUT, fold_into(profile.structure, site)
    channel_amax = record.channel_amax.max(axis=0)
    lines = _standing_out(channel_amax, record.channel_sum_squares, whole.elements)
    tokens: list[OutlyingToken] = []
    if whole.amax >= FEW_TOKENS * usual or _first_stands_out(record):
        tokens = outlying_tokens(profile, record, level)
        cause, remedy = _token_cause(tokens), _token_remedy(rounding, fold)
    elif lines:
        product = fold is not None and is_gated_product(profile.structure, fold)
        cause = Cause.PRODUCT_CHANNEL if product else Cause.FIXED_CHANNEL
        remedy = Remedy.SMOOTH if fold else Remedy.BF16
    else:
        return rounding
    return replace(
        rounding,
        cause=cause,
        remedy=remedy,
        fold=fold if remedy is Remedy.SMOOTH else None,
        lines=lines,
        tokens=tuple(tokens[:MOST]),
        tags=tuple(t for t, amax in zip(profile.tags, record.amax, strict=True) if amax >= level),
        sequences=int((record.sequence_amax >= level).sum()),
    )


def _of_weight(profile: Profile, site: Site) -> SiteCause:
    record, structure = profile.weights[site.module], profile.structure
    whole = record.magnitudes()
    by_row = _rounding(site, whole, _usual(record.row_amax))
    if by_row.ratio < OUTLIER_RATIO:
        return by_row
    rows = _standing_out(record.row_amax, record.row_sum_squares, whole.elements)
    if rows:
        fold, remedy = fold_out_of(structure, site, rows[0].index), Remedy.PER_CHANNEL
        return replace(by_row, cause=Cause.WEIGHT_ROW, remedy=remedy, fold=fold, lines=rows)
    columns = _standing_out(record.column_amax, record.column_sum_squares, whole.elements)
    if columns:
        by_column = _rounding(site, whole, _usual(record.column_amax))
        fold = fold_into(structure, site)
        remedy = Remedy.UNFOLD if fold else Remedy.BF16
        return replace(
            by_column, cause=Cause.WEIGHT_COLUMN, remedy=remedy, fold=fold, lines=columns
        )
    return by_row


def _rounding(site: Site, whole: Histogram, usual: float) -> SiteCause:
    """What holds unless something stands out."""
    body = whole.rms_body()
    if body == 0:
        return SiteCause(site, Cause.ROUNDING, 0.0)
    return SiteCause(site, Cause.ROUNDING, whole.amax / body, usual / body)


def _usual(amax: NDArray[np.float32]) -> float:
    return float(np.quantile(amax, USUAL, method="inverted_cdf"))


def _standing_out(
    amax: NDArray[np.float32], sum_squares: NDArray[np.float64], elements: int
) -> tuple[Line, ...]:
    """The largest lines, if the first of them is far beyond the usual."""
    largest = float(amax.max())
    if largest < STANDS_OUT * _usual(amax):
        return ()
    lines = largest_lines(amax, sum_squares, elements // len(amax))
    return tuple(line for line in lines[:MOST] if line.amax >= largest / STANDS_OUT)


def _first_stands_out(record: SiteRecord) -> bool:
    """Whether the first tokens exceed all others by far."""
    first, others = np.abs(record.top_value).max(axis=(0, 2))
    return bool(first >= STANDS_OUT * others > 0)


def _usual_token(record: SiteRecord) -> float:
    """What three in four tokens stay under; all but the first ones, where those stand out."""
    counts = record.token_amax.sum(axis=0)
    usual = Histogram(record.encoding, counts, 0, float(record.amax.max())).quantile(USUAL)
    if _first_stands_out(record):  # of short sequences, more than one in four is the first
        return min(usual, float(np.abs(record.top_value[:, 1]).max()))
    return usual


def _token_cause(tokens: Sequence[OutlyingToken]) -> Cause:
    """By where the largest value stands; if not at a first token, by what most of them say."""
    if tokens[0].first:
        return Cause.FIRST_TOKEN
    others = [token for token in tokens if not token.first]
    delimiters = sum(token.sequences for token in others if token.delimiter)
    most = 2 * delimiters >= sum(token.sequences for token in others)
    return Cause.DELIMITER if most else Cause.OTHER_TOKEN


def _token_remedy(found: SiteCause, fold: Fold | None) -> Remedy:
    if found.usual_ratio >= OUTLIER_RATIO:  # scales per token would leave what is in most tokens
        return Remedy.SMOOTH if fold else Remedy.BF16
    # a KV cache has no scale per token
    return Remedy.BF16 if found.site.role in (Role.K, Role.V) else Remedy.PER_TOKEN
