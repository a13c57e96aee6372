"""Short names of groups on an axis: the block's number and the last part."""

from __future__ import annotations

from fp8scope.report.document.inert import inert
from fp8scope.report.snapshot import Snapshot
from fp8scope.report.words import shorten

LONGEST = 22


class Places:
    """Names of one snapshot's groups, caches and modules; each is inert."""

    def __init__(self, snapshot: Snapshot) -> None:
        labels = snapshot.row_labels
        self._snapshot = snapshot
        self._rows = {
            name: (snapshot.grid.rows[row], labels[row])
            for (row, _), module in snapshot.grid.modules.items()
            for name in (module, snapshot.grid.group(module))
            if snapshot.grid.rows[row]
        }

    def label(self, name: str) -> str:
        """`39 kv_cache`, where the block has a number; else the end of the short name."""
        block, number = self._rows.get(name, ("", ""))
        if number.isdecimal():
            last = name.removeprefix(f"{block}.").rpartition(".")[2]
            return inert(f"{number} {cut(last, LONGEST)}")
        return inert(cut(self._snapshot.short(name), LONGEST))

    def full(self, name: str) -> str:
        """The name as reports show it."""
        return inert(self._snapshot.short(name))


def cut(name: str, longest: int) -> str:
    """The end of a name: whole parts of it, if one fits."""
    short = shorten(name, longest)
    return short if len(short) <= longest else f"…{short[1 - longest :]}"
