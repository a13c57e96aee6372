"""Is the cause of a planted outlier found? Every kind, strength, layer and model, one at a time.

    python tests/bench/causes.py [--strengths 1e2 1e4 1e5 1e6] [--model NAME …] [--layers 0 …]

Plants in the small trained models of ../shared/data (see tests/planting.py), scans, and prints a
line of JSON per plant: the cause of the planted site, its amax/rms and body SQNR, and the sites
outside the plant that have another cause than plain rounding; at last how many were right.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import Any

from fp8scope.analyze.cause import Cause, site_cause
from fp8scope.analyze.groups import GroupFinding, group_findings
from fp8scope.analyze.measures import measure
from fp8scope.analyze.thresholds import CAST_ROLES, OUTLIER_RATIO
from fp8scope.core.choices import Choices
from fp8scope.core.sites import Role, Site
from fp8scope.observe.api import subject_in_memory
from fp8scope.observe.scan import Scan, ScanOptions
from fp8scope.observe.sensitivity import SensitivityOptions
from fp8scope.profile.record import Profile
from tests import planting


def row(name: str, kind: str, strength: float, layer: int) -> dict[str, Any]:
    """One plant: what is said of it, and whether that is right."""
    model, _, plants = planting.planted(name, {layer: kind}, strength)
    plant = plants[layer]
    batches, tokenizer = planting.batches(name), planting.load(name)[1]
    subject = subject_in_memory(model, batches, tokenizer)
    choices = Choices(("fp8_tensor", "fp8_token", "fp8_smooth"), alphas=(0.5,))
    second = SensitivityOptions(choices=choices, required=True)
    profile = Scan(subject, ScanOptions(sensitivity=second)).run()
    sites = [site for site in profile.sites if site.role in CAST_ROLES]
    sites += [Site(module, Role.WEIGHT) for module in profile.weights]
    others = {site: site_cause(profile, site).cause for site in sites if site not in plant.shows}
    elsewhere = [str(site) for site, cause in others.items() if cause is not Cause.ROUNDING]
    found, measured = site_cause(profile, plant.site), measure(profile, plant.site)
    expected = plant.shows[plant.site] if strength >= OUTLIER_RATIO else Cause.ROUNDING
    groups = group_findings(profile)
    planted = {group.group for group in groups if _shows(group, plant, profile)}
    flagged = {group.group for group in groups if group.harmful}
    costs = {g.group: round(g.plain.kl, 4) for g in groups if g.group in planted and g.plain}
    return {
        "model": name,
        "kind": kind,
        "strength": strength,
        "layer": layer,
        "cause": found.cause,
        "right": found.cause is expected and not elsewhere and flagged <= planted,
        "flagged": sorted(flagged),
        "nats of the planted groups": costs,
        "amax/rms": round(found.ratio),
        "usual/rms": round(found.usual_ratio, 1),
        "body SQNR, dB": round(measured.error.body_sqnr_db, 1),
        "elsewhere": elsewhere,
    }


def _shows(group: GroupFinding, plant: planting.Planted, profile: Profile) -> bool:
    """Whether the group reads or holds what was planted."""
    sites = {Site(name, role) for name in group.members for role in (Role.INPUT, Role.WEIGHT)}
    return bool({profile.aliases.get(site, site) for site in sites} & set(plant.shows))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--strengths", type=float, nargs="*", default=[1e2, 1e4, 1e5, 1e6])
    parser.add_argument("--model", nargs="*", default=planting.MODELS)
    parser.add_argument("--layers", type=int, nargs="*", default=range(planting.LAYERS))
    arguments = parser.parse_args()
    if not planting.DATA.is_dir():
        print(f"skipped: no {planting.DATA}")
        return
    right: Counter[float] = Counter()
    total: Counter[float] = Counter()
    for name in arguments.model:
        for kind in planting.KINDS:
            for strength in arguments.strengths:
                for layer in arguments.layers:
                    found = row(name, kind, strength, layer)
                    print(json.dumps(found, ensure_ascii=False), flush=True)
                    right[strength] += found["right"]
                    total[strength] += 1
    for strength in arguments.strengths:
        print(f"strength {strength:.0e}: {right[strength]} of {total[strength]} right")


if __name__ == "__main__":
    main()
