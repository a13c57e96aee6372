"""What was built, for a person and as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group as Renderables

from fp8scope.artefacts.plan import Plan
from fp8scope.checkpoint.doctor.diagnosis import Diagnosis
from fp8scope.core.modules import WORDS
from fp8scope.export.readers import Reader
from fp8scope.report.words import literal


def built_page(
    plan: Plan, before: int, diagnosis: Diagnosis, read_by: Sequence[Reader]
) -> Renderables:
    """What is in the folder, what it weighs, and who will run it as planned."""
    head = literal(f"{diagnosis.folder}: {plan.model.name} in FP8")
    head.stylize("bold")
    stored = [f"{count} in {WORDS[each]}" for each, count in diagnosis.linears.items() if count]
    size = f"{_size(diagnosis.nbytes)} of tensors"
    size += f", {_size(before)} before" if before else ""
    lines = [f"Linears: {'; '.join(stored)}. In all {size}."]
    if plan.folds:
        lines.append(f"Smoothing is folded into the weights ({len(plan.folds)} folds).")
    caches = [cache for cache in plan.kv_cache if cache.precision == "fp8"]
    if caches:
        lines.append(
            f"Scales of an FP8 KV cache: {len(caches)} layers; engines ask for fp8 there as well."
        )
    lines += _readers(read_by)
    lines += [f"Warning: {fault.what}; {fault.remedy}." for fault in diagnosis.faults]
    return Renderables(head, *(literal(f"  {line}") for line in lines))


def built_json(
    plan: Plan, built_as: str, before: int, diagnosis: Diagnosis, read_by: Sequence[Reader]
) -> dict[str, Any]:
    """The same as data. Sizes are bytes."""
    return {
        "checkpoint": str(diagnosis.folder),
        "model": plan.model.name,
        "format": built_as,
        "linears": dict(diagnosis.linears),
        "folds": len(plan.folds),
        "kv_cache_layers": sum(cache.precision == "fp8" for cache in plan.kv_cache),
        "bytes": diagnosis.nbytes,
        "bytes_before": before,
        "readers": [reader.to_json() for reader in read_by],
        "warnings": [fault.to_json() for fault in diagnosis.faults],
    }


def _readers(read_by: Sequence[Reader]) -> list[str]:
    """Those who will do as planned in one line, each of the others in its own."""
    holding = [_named(reader) for reader in read_by if reader.holds]
    lines = [f"{', '.join(holding)}: all layers will run as planned."] if holding else []
    others = [reader for reader in read_by if not reader.holds]
    return lines + [f"{_named(reader)}: {_verdict(reader)}." for reader in others]


def _named(reader: Reader) -> str:
    return f"{reader.name} {reader.version}".strip()


def _verdict(reader: Reader) -> str:
    if not reader.layers:
        return f"cannot read it ({reader.fault})"
    return f"{reader.as_planned} of {reader.layers} layers as planned: {reader.fault}"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
