"""The whole model at a glance."""

from __future__ import annotations

from fp8scope.report.document.blocks import Paragraph, Section
from fp8scope.report.figures.heatmap import heatmap
from fp8scope.report.snapshot import Snapshot

HOW = (
    "A cell is a linear, or the KV cache of an attention module; the deeper the orange, the worse. "
    "A click on one leads to its layer."
)


def overview(snapshot: Snapshot) -> Section:
    """The heatmap, and how to read it."""
    return Section("Overview", "~overview", [Paragraph(HOW), heatmap(snapshot)], "heatmap blocks")
