"""Rows shared by every view: the same numbers in a table, in JSON and, later, on a screen."""

from __future__ import annotations

import math
from typing import Any

from fp8scope.analyze.measures import SiteMeasures, excerpt_at
from fp8scope.core.sites import Role, Site
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
        "sites": len(profile.sites),
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
        "body_sqnr_db": finite(row.error.body_sqnr_db),
        "sqnr_db": finite(row.error.sqnr_db),
        "underflow_rate": row.error.underflow_rate,
        "saturation_rate": row.error.saturation_rate,
        "headroom": row.headroom,
        "headroom_tag": row.headroom_tag,
        "worst_token": vars(row.worst) if row.worst else None,
    }


def top_rows(profile: Profile, site: Site) -> list[dict[str, Any]]:
    """The largest values of an activation site with their text, best first."""
    if site.role is Role.WEIGHT:
        return []
    best = profile.site(site).best()
    rows = []
    for i in range(len(best)):
        sample, position = int(best.sample[i]), int(best.position[i])
        token, before, after = excerpt_at(profile, sample, position)
        rows.append(
            {
                "value": float(best.value[i]),
                "channel": int(best.channel[i]),
                "sample": sample,
                "position": position,
                "tag": profile.tags[profile.samples["tag"][sample]],
                "token": token,
                "before": before,
                "after": after,
            }
        )
    return rows


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
