"""A small table as plain values: rich prints it, and a report takes its cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fp8scope.report.document.blocks import Excerpt
from fp8scope.report.words import in_text, literal

PLACES = ("tag, file:document", "text")  # what may take more than one line

Entry = str | Excerpt


@dataclass(frozen=True)
class Sheet:
    """Cells as they are written; foreign ones of the header must be printable. The first column
    stands left, the rest right. `highlight`: how a token looks in its text, where rich prints it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    highlight: str = "bold"

    def __rich__(self) -> Group:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        tall = any("\n" in name for name in self.header)
        for i, name in enumerate(self.header):
            place = name in PLACES
            table.add_column(
                Text(name),
                justify="left" if i == 0 or place else "right",
                vertical="bottom" if tall else "top",
                no_wrap=not place,
                overflow="fold" if place else "ellipsis",
            )
        for row in self.rows:
            table.add_row(*map(self._printed, row))
        return Group(literal(self.title), table)

    def _printed(self, entry: Entry) -> Text:
        if isinstance(entry, Excerpt):
            return in_text(entry.before, entry.token, entry.after, self.highlight)
        return literal(entry)


def sheet(
    title: str, header: Sequence[str], rows: Iterable[Sequence[Entry]], highlight: str = "bold"
) -> Sheet:
    """A sheet of any sequences."""
    return Sheet(title, tuple(header), tuple(map(tuple, rows)), highlight)
