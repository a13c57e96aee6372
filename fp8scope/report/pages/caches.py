"""The KV cache in FP8, layer by layer."""

from __future__ import annotations

from fp8scope.analyze.kvcache import CachedLayer, Safety
from fp8scope.core.words import decibel, number
from fp8scope.report.document.blocks import Block, Cell, Column, Row, Section, Table, Tone
from fp8scope.report.kvcache import cache_sentences, kvcache_sentences
from fp8scope.report.pages.names import Names
from fp8scope.report.pages.tables import nats_cell, number_cell, prose
from fp8scope.report.snapshot import Snapshot

_TONES: dict[Safety, Tone] = {
    Safety.SAFE: "good",
    Safety.MARGINAL: "warn",
    Safety.UNSAFE: "bad",
}


def caches(snapshot: Snapshot, names: Names) -> Section | None:
    """None for a model without a KV cache."""
    layers = snapshot.kv_cache
    if not layers:
        return None
    said = [*kvcache_sentences(layers), *cache_sentences(layers)]
    blocks: list[Block] = [*prose(said, names), _table(snapshot, layers, names)]
    return Section("KV cache", "~kv", blocks, "attention k v scales heads")


def _table(snapshot: Snapshot, layers: tuple[CachedLayer, ...], names: Names) -> Table:
    columns = [
        Column("attention"),
        Column("calibrated scales"),
        Column("scale 1"),
        Column("nats", numeric=True, about="with calibrated scales"),
        Column("nats, scale 1", numeric=True),
        Column("lowest body SQNR", numeric=True, about="of the worst head of K and V"),
        Column("largest value", numeric=True),
    ]
    if snapshot.plan is not None:
        columns.append(Column("planned"))
    rows = [_row(snapshot, layer, names) for layer in layers]
    return Table(columns, rows, "Every layer, the worst first", shown=12)


def _row(snapshot: Snapshot, layer: CachedLayer, names: Names) -> Row:
    group = snapshot.grid.group(layer.module)
    amax = max(tensor.amax for tensor in layer.tensors)
    low = layer.worst.lowest_db
    cells = [
        Cell((names.link(layer.module),)),
        Cell(str(layer.calibrated_safety), tone=_TONES[layer.calibrated_safety]),
        Cell(str(layer.unit_safety), tone=_TONES[layer.unit_safety]),
        nats_cell(layer.kl.kl if layer.kl else None),
        nats_cell(layer.unit_kl.kl if layer.unit_kl else None),
        number_cell(f"{decibel(low)} ({layer.worst.site.role})", low),
        number_cell(number(amax), amax),
    ]
    if snapshot.plan is not None:
        cells.append(Cell(snapshot.planned.get(group, "")))
    return Row(cells, names.claim(group))
