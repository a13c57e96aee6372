"""What the views show as plain values: for JSON and, later, on a screen."""

from __future__ import annotations

import math
from typing import Any

from fp8scope.analyze.detail import QUANTILES, Part, SiteDetail
from fp8scope.analyze.measures import SiteMeasures
from fp8scope.analyze.verdict import Verdict
from fp8scope.core.error import QuantError
from fp8scope.profile.record import Profile


def profile_summary(profile: Profile) -> dict[str, Any]:
    """Model, text and settings in a few plain values."""
    lengths = profile.samples["length"]
    return {
        "model": profile.model,
        "settings": profile.settings,
        "environment": profile.environment,
        "family": profile.structure.family,
        "linears": len(profile.structure.linears),
        "groups": len(profile.structure.groups),
        "sites": len(profile.sites) + len(profile.weights),
        "activation_sites": len(profile.sites),
        "weights": len(profile.weights),
        "sequences": len(lengths),
        "tokens": int(lengths.sum()),
        "tags": {
            tag: {
                "sequences": int((profile.samples["tag"] == i).sum()),
                "tokens": int(lengths[profile.samples["tag"] == i].sum()),
            }
            for i, tag in enumerate(profile.tags)
        },
        "notes": list(profile.notes),
    }


def site_row(row: SiteMeasures) -> dict[str, Any]:
    """One site as plain values; None stands for "no noise" (infinite dB) and "not known"."""
    return {
        "module": row.site.module,
        "role": str(row.site.role),
        "shared_by": list(row.shared_by),
        "elements": row.elements,
        "amax": row.amax,
        "rms_body": row.rms_body,
        "amax_over_rms_body": row.outlier_ratio,
        **_error(row.error),
        "headroom": row.headroom,
        "headroom_tag": row.headroom_tag,
        "worst_token": vars(row.worst) if row.worst else None,
    }


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """The verdict; sites are named `module role`, worst first."""
    lowest, underflow = verdict.lowest, verdict.most_underflow
    headroom = verdict.least_headroom
    return {
        "sites": verdict.sites,
        "damaged": [str(row.site) for row in verdict.damaged],
        "below_floor": verdict.below_floor,
        "one_tag": [str(row.site) for row in verdict.one_tag],
        "lowest_body_sqnr_db": finite(lowest.error.body_sqnr_db) if lowest else None,
        "highest_underflow_rate": underflow.error.underflow_rate if underflow else None,
        "least_headroom": headroom.headroom if headroom else None,
    }


def detail_row(detail: SiteDetail) -> dict[str, Any]:
    """Everything about one site; its row as in the list of sites comes first."""
    return {
        **site_row(detail.measures),
        "errors": {name: _error(error) for name, error in detail.errors.items()},
        "tags": [_part(part) for part in detail.tags],
        "heads": [_part(part) for part in detail.heads],
        "amax_quantiles": {
            name: dict(zip(map(str, QUANTILES), values, strict=True))
            for name, values in detail.spreads.items()
        },
        "largest": {axis: [vars(line) for line in lines] for axis, lines in detail.lines.items()},
        "top": {name: [vars(v) for v in values] for name, values in detail.top.items()},
        "top_weights": [vars(value) for value in detail.top_weights],
    }


def _error(error: QuantError) -> dict[str, Any]:
    return {
        "body_sqnr_db": finite(error.body_sqnr_db),
        "sqnr_db": finite(error.sqnr_db),
        "underflow_rate": error.underflow_rate,
        "saturation_rate": error.saturation_rate,
    }


def _part(part: Part) -> dict[str, Any]:
    """A tag or a KV head; its error is under the one scale of the whole site."""
    return {
        "name": part.name,
        "elements": part.elements,
        "amax": part.amax,
        "amax_over_rms_body": part.outlier_ratio,
        **_error(part.error),
        "headroom": part.headroom,
        "first_token_amax": part.first_token_amax,
        "other_tokens_amax": part.other_tokens_amax,
    }


def finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and math.isfinite(value) else None
