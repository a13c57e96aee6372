"""Static or dynamic scales, what traffic of another kind meets, and whether the text is enough."""

from __future__ import annotations

from fp8scope.report.convergence import convergence_sentences
from fp8scope.report.document.blocks import Block, Section
from fp8scope.report.figures.convergence import convergence
from fp8scope.report.figures.headroom import headroom_matrix
from fp8scope.report.headroom import headroom_sentences
from fp8scope.report.pages.names import Names
from fp8scope.report.pages.tables import prose
from fp8scope.report.scaling import scaling_sentences
from fp8scope.report.snapshot import Snapshot

ONE_TAG = (
    "The text has one tag, so nothing is known of other traffic: scan with one --calib TAG=FILE "
    "for each use case."
)


def traffic(snapshot: Snapshot, names: Names) -> Section:
    """Each with its sentences, and a figure where there is one."""
    parts = {
        "Static or dynamic scales": ("~scaling", _scaling(snapshot, names)),
        "Headroom": ("~headroom", _headroom(snapshot, names)),
        "Convergence": ("~convergence", _settled(snapshot, names)),
    }
    inner = [Section(title, to, blocks) for title, (to, blocks) in parts.items() if blocks]
    keywords = "calibration static dynamic clipping saturation amax tags"
    return Section("Traffic", "~traffic", [], keywords, inner)


def _scaling(snapshot: Snapshot, names: Names) -> list[Block]:
    return prose(scaling_sentences(snapshot.scaling), names) if snapshot.scaling else []


def _headroom(snapshot: Snapshot, names: Names) -> list[Block]:
    if not snapshot.headroom:
        return prose([ONE_TAG], names)
    drawn = headroom_matrix(snapshot)
    figure: list[Block] = [drawn] if drawn else []
    return [*figure, *prose(headroom_sentences(snapshot.headroom), names)]


def _settled(snapshot: Snapshot, names: Names) -> list[Block]:
    if not snapshot.convergence:
        return []
    drawn = convergence(snapshot.convergence)
    figure: list[Block] = [drawn] if drawn else []
    return [*prose(convergence_sentences(snapshot.convergence), names), *figure]
