"""Everything that a profile holds about one module, site by site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.measures import SiteMeasures, TopValue, measure, top_values
from fp8scope.core.error import QuantError, quantization_error
from fp8scope.core.formats import E4M3
from fp8scope.core.histogram import BODY_QUANTILE, Histogram
from fp8scope.core.sites import Role, Site
from fp8scope.core.top import Top, merge_top
from fp8scope.profile.layout import TOP_K, TOP_LISTS
from fp8scope.profile.record import Profile, SiteRecord, WeightRecord

QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)
LINES = 10


@dataclass(frozen=True)
class Part:
    """A tag or a KV head of a site, under the one static scale of the whole site.

    `headroom`: the scale that the other tags give, over what this one needs. None for a head,
    and where nothing can be compared; so are the amaxes of the first and of the other tokens.
    """

    name: str
    elements: int
    amax: float
    outlier_ratio: float
    error: QuantError
    headroom: float | None = None
    first_token_amax: float | None = None
    other_tokens_amax: float | None = None


@dataclass(frozen=True)
class Line:
    """One channel of an activation, or a row (output channel) or column of a weight.

    `over_median` is its amax over that of the median line, None where that is 0.
    """

    index: int
    amax: float
    over_median: float | None
    rms: float


@dataclass(frozen=True)
class TopWeight:
    """A large weight: row is the output channel, column the input channel."""

    value: float
    row: int
    column: int


@dataclass(frozen=True)
class SiteDetail:
    """One site. `errors` by the scale's granularity: "tensor", and what `--record full` adds.

    `spreads`: the `QUANTILES` of the amax of each token, sequence, channel, row, column.
    `lines`: by axis (channel, row, column) the `LINES` largest. `top`: the largest values of all
    tags, best first, by list (`layout.TOP_LISTS`: at first tokens, at others).
    """

    measures: SiteMeasures
    errors: Mapping[str, QuantError]
    spreads: Mapping[str, tuple[float, ...]]
    lines: Mapping[str, list[Line]]
    tags: list[Part] = field(default_factory=list)
    heads: list[Part] = field(default_factory=list)
    top: Mapping[str, list[TopValue]] = field(default_factory=dict)
    top_weights: list[TopWeight] = field(default_factory=list)


def module_detail(profile: Profile, module: str) -> list[SiteDetail]:
    """Details of every site of a module; an input that it shares is under its owner's name."""
    owners = (profile.owner(Site(module, role)) for role in Role)
    found = [_activation(profile, site) for site in owners if site in profile.sites]
    return found + ([_weight(profile, module)] if module in profile.weights else [])


def _activation(profile: Profile, site: Site) -> SiteDetail:
    record = profile.sites[site]
    whole = record.magnitudes()
    channel_amax = record.channel_amax.max(axis=0)
    counts = record.token_amax.sum(axis=0)
    tokens = Histogram(record.encoding, counts, int(counts[0]), whole.amax)
    return SiteDetail(
        measures=measure(profile, site),
        errors=_errors(
            whole,
            {
                "token": _all_tags(record.error_per_token),
                "block of 128 channels": _all_tags(record.error_per_block),
            },
        ),
        spreads={
            "token": (*(tokens.quantile(q) for q in QUANTILES[:-1]), whole.amax),
            "sequence": _spread(record.sequence_amax),
            "channel": _spread(channel_amax),
        },
        lines={
            "channel": largest_lines(
                channel_amax,
                record.channel_sum_squares,
                whole.elements // len(channel_amax),
            )
        },
        tags=_tags(profile, record),
        heads=_heads(record) if site.role in (Role.K, Role.V) else [],
        top={
            name: top_values(profile, _best(record, which)) for which, name in enumerate(TOP_LISTS)
        },
    )


def _weight(profile: Profile, module: str) -> SiteDetail:
    record = profile.weights[module]
    rows, columns = len(record.row_amax), len(record.column_amax)
    return SiteDetail(
        measures=measure(profile, Site(module, Role.WEIGHT)),
        errors=_errors(
            record.magnitudes(),
            {
                "output channel": record.error_per_channel,
                "block of 128 × 128": record.error_per_block,
            },
        ),
        spreads={"row": _spread(record.row_amax), "column": _spread(record.column_amax)},
        lines={
            "row": largest_lines(record.row_amax, record.row_sum_squares, columns),
            "column": largest_lines(record.column_amax, record.column_sum_squares, rows),
        },
        top_weights=_top_weights(record),
    )


def _errors(
    whole: Histogram, tiles: Mapping[str, NDArray[np.float64] | None]
) -> dict[str, QuantError]:
    """Errors by granularity. The body of tiles ends with the binade of the .9 quantile."""
    errors = {"tensor": quantization_error(whole, E4M3)}
    body = (whole.quantile_bin(BODY_QUANTILE) >> whole.encoding.mantissa_bits) + 1
    for name, by_binade in tiles.items():
        if by_binade is not None:
            elements, underflowed, signal, noise = by_binade.sum(axis=0)
            _, _, body_signal, body_noise = by_binade[:body].sum(axis=0)
            errors[name] = QuantError(
                elements=int(elements),
                saturated=0.0,  # each scale is that of its tile's amax
                underflowed=float(underflowed),
                signal=float(signal),
                noise=float(noise),
                body_signal=float(body_signal),
                body_noise=float(body_noise),
            )
    return errors


def _all_tags(error: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    return None if error is None else error.sum(axis=0)


def _spread(amax: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(float(q) for q in np.quantile(amax, QUANTILES, method="inverted_cdf"))


def largest_lines(
    amax: NDArray[np.float32], sum_squares: NDArray[np.float64], length: int
) -> list[Line]:
    """The `LINES` largest lines, of `length` elements each; amax and sum_squares by line, [n]."""
    median = float(np.median(amax))
    rms = np.sqrt(sum_squares / max(1, length))
    return [
        Line(int(i), float(amax[i]), float(amax[i]) / median if median else None, float(rms[i]))
        for i in np.argsort(-amax, kind="stable")[:LINES]
    ]


def _tags(profile: Profile, record: SiteRecord) -> list[Part]:
    scale = float(E4M3.scale(record.magnitudes().amax))
    histograms = [record.magnitudes(tag) for tag in range(record.tags)]
    parts = []
    for tag, histogram in enumerate(histograms):
        others = max((h.amax for h in histograms if h is not histogram), default=0)
        first, other = (float(np.abs(record.top(tag, i).value).max(initial=0)) for i in (0, 1))
        part = Part(
            profile.tags[tag],
            histogram.elements,
            histogram.amax,
            histogram.outlier_ratio(),
            quantization_error(histogram, E4M3, scale),
            others / histogram.amax if len(histograms) > 1 and histogram.amax else None,
            first,
            other,
        )
        parts.append(part)
    return parts


def _heads(record: SiteRecord) -> list[Part]:
    scale = float(E4M3.scale(record.magnitudes().amax))
    parts = []
    for head in range(record.heads):
        histogram = record.head_magnitudes(head)
        error = quantization_error(histogram, E4M3, scale)
        ratio = histogram.outlier_ratio()
        parts.append(Part(str(head), histogram.elements, histogram.amax, ratio, error))
    return parts


def _best(record: SiteRecord, which: int) -> Top:
    lists = (record.top(tag, which) for tag in range(record.tags))
    return reduce(lambda a, b: merge_top(a, b, TOP_K), lists, Top.empty())


def _top_weights(record: WeightRecord) -> list[TopWeight]:
    return [
        TopWeight(float(value), int(row), int(column))
        for value, row, column in zip(
            record.top_value, record.top_row, record.top_column, strict=True
        )
        if value != 0
    ]
