"""Everything about each of the worst fused groups and KV caches."""

from __future__ import annotations

import math

from fp8scope.analyze.groups import PLAIN
from fp8scope.analyze.kvcache import CachedLayer, Safety
from fp8scope.analyze.layer import layer_findings
from fp8scope.core.words import nats_within, printable
from fp8scope.report.commands import command
from fp8scope.report.document.blocks import Block, Code, Details, Inline, Paragraph, Section, Words
from fp8scope.report.pages.layer import layer_blocks
from fp8scope.report.pages.names import Names
from fp8scope.report.pages.verdict import cause_in_brief
from fp8scope.report.snapshot import Snapshot

HOW = (
    "The worst first. Each is one fused group, whose members share one precision, or the KV cache "
    "of one attention module."
)


def layers(snapshot: Snapshot, names: Names, count: int) -> Section | None:
    """One part each, folded; None where nothing is to be shown."""
    ranked = worst(snapshot)
    chosen = ranked[:count]
    if not chosen:
        return None
    blocks: list[Block] = [Paragraph(HOW)]
    blocks += [_part(snapshot, name, names) for name in chosen]
    if len(ranked) > count:
        one = command("analyze", snapshot.path, "--layer", "NAME")
        left = f"{len(ranked) - count} more groups and caches: "
        blocks.append(Paragraph((left, Code(one), f", or this report with --layers {len(ranked)}")))
    return Section("Layers", "~layers", blocks, "cause remedy histogram outliers channels tokens")


def worst(snapshot: Snapshot) -> list[str]:
    """Fused groups, and KV caches that hurt: findings first, then what a plan does not leave
    plain, then by what plain FP8 costs.
    """
    found = snapshot.groups or {}
    costs = {name: group.plain.kl if group.plain else 0.0 for name, group in found.items()}
    harmful = {name for name, group in found.items() if group.harmful}
    for layer in snapshot.kv_cache or ():
        if layer.calibrated_safety is Safety.UNSAFE:
            name = _cache(snapshot, layer)
            costs[name] = layer.kl.kl if layer.kl else 0.0
            harmful.add(name)
    inside = {name for name in costs if name not in found or found[name].in_block}
    bent = {name for name in costs if snapshot.planned.get(name, PLAIN) not in (PLAIN, "fp8")}

    def rank(name: str) -> tuple[bool, bool, bool, float]:
        cost = costs[name]
        known = -(math.inf if math.isnan(cost) else cost)
        return name not in harmful, name not in inside, name not in bent, known

    return sorted(costs, key=rank)


def _cache(snapshot: Snapshot, layer: CachedLayer) -> str:
    return snapshot.grid.group(layer.module)


def _part(snapshot: Snapshot, name: str, names: Names) -> Details:
    caches = {layer.group: layer.attention for layer in snapshot.profile.structure.kv_layers}
    study = layer_findings(snapshot.profile, caches.get(name, name))
    anchor = names.claim(name)
    blocks = layer_blocks(snapshot, name, study, names)
    return Details(_summary(snapshot, name, names), blocks, anchor)


def _summary(snapshot: Snapshot, name: str, names: Names) -> Words:
    """The name, what it costs, what its outlier is, and what it is planned to run in."""
    said = []
    plain = snapshot.scores.get(name, {}).get(PLAIN)
    if plain is not None:
        said.append(f"{nats_within(plain.kl, plain.nats.error)} nats per token in {PLAIN}")
    finding = (snapshot.groups or {}).get(name)
    if finding is not None:
        said.append(cause_in_brief(finding.cause))
    said += [
        f"{layer.calibrated_safety} with calibrated scales"
        for layer in snapshot.kv_cache or ()
        if _cache(snapshot, layer) == name
    ]
    if planned := snapshot.planned.get(name):
        said.append(f"planned {planned}")
    parts: list[Inline] = [Code(names.short(name))]
    return (*parts, printable(f": {'; '.join(said)}" if said else ""))
