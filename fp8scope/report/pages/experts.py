"""Which routed experts the text has reached."""

from __future__ import annotations

from fp8scope.analyze.coverage import expert_coverage
from fp8scope.report.document.blocks import Block, Paragraph, Section
from fp8scope.report.experts import coverage_sentence, coverage_sheet
from fp8scope.report.pages.tables import table
from fp8scope.report.snapshot import Snapshot


def experts(snapshot: Snapshot) -> Section | None:
    """None for a model without routed experts."""
    found = expert_coverage(snapshot.profile)
    if not found:
        return None
    blocks: list[Block] = [Paragraph(coverage_sentence(found))]
    short = coverage_sheet(found, len(found))
    if short.rows:
        blocks.append(table(short))
    return Section("Experts", "~experts", blocks, "MoE routing dead starved coverage")
