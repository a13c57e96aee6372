"""What static scales do to other traffic: rows for JSON, sentences for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fp8scope.analyze.headroom import Headroom
from fp8scope.analyze.saturation import Interval, Saturation
from fp8scope.core.words import common_prefix, percent, site_name, times
from fp8scope.report.rows import finite
from fp8scope.report.words import literal


def headroom_rows(found: Sequence[Headroom]) -> list[dict[str, Any]]:
    """One per site and calibration, in their order; tags by name."""
    return [
        {
            "module": row.site.module,
            "role": str(row.site.role),
            "calibration": row.calibration,
            "tags": {tag: saturation_row(of) for tag, of in row.tags.items()},
        }
        for row in found
    ]


def saturation_row(of: Saturation) -> dict[str, Any]:
    """One site and tag under one scale as plain values; intervals are [low, high] of 95%."""
    return {
        "scale": of.scale,
        "clip": of.clip,
        "saturation_rate": of.rate,
        "saturation_rate_interval": list(of.rate_interval),
        "sequences": of.sequences,
        "saturated_sequences": of.saturated_sequences,
        "saturated_share_interval": list(of.share_interval),
        "far_sequences": of.far_sequences,
        "far_share_interval": list(of.far_interval),
        "underflow_rate": of.error.underflow_rate,
        "body_sqnr_db": finite(of.error.body_sqnr_db),
    }


def headroom_sentences(found: Sequence[Headroom]) -> list[str]:
    """One sentence per calibration, the worst first. `found` is worst first (`tag_headroom`)."""
    prefix = common_prefix(row.site.module for row in found)
    calibrations = dict.fromkeys(row.calibration for row in found)
    return [
        _sentence([row for row in found if row.calibration == name], prefix)
        for name in calibrations
    ]


def saturation_words(of: Saturation, tag: str) -> str:
    """`in 23% of the sequences of code (18% to 28%), by more than 20% in 4% …, 0.2% of …`."""
    by_far = f"{percent(of.far_share)}{_range(of.far_interval)}" if of.far_sequences else "none"
    return (
        f"in {percent(of.share)} of the sequences of {literal(tag)}{_range(of.share_interval)}, "
        f"by more than 20% in {by_far}; {percent(of.rate)} of the values"
        f"{_range(of.rate_interval)}, the largest {times(of.clip)}× over"
    )


def _sentence(rows: Sequence[Headroom], prefix: str) -> str:
    start = f"Scales from {literal(rows[0].calibration)} alone clip"
    clipped = [row for row in rows if row.worst.saturated_sequences]
    if not clipped:
        return f"{start} nothing at any of {len(rows)} sites."
    worst = clipped[0]
    return (
        f"{start} at {len(clipped)} of {len(rows)} sites, worst {site_name(worst.site, prefix)}: "
        f"{saturation_words(worst.worst, worst.worst_tag)}."
    )


def _range(interval: Interval) -> str:
    low, high = map(percent, interval)
    return f" ({low} to {high})" if low != high else ""
