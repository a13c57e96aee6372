"""A table of thousands of sites: only the lines on the screen are ever drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from fp8scope.analyze.measures import SiteMeasures
from fp8scope.core.sites import Site
from fp8scope.tui.site_rows import MARK, Cells, Column, marked, place_words

GAP = 1
LEAST_PLACE = 20
DROPPED = ("channel", "amax")  # where there is no room, from the first
SHORTENED = {"headroom": 6, "module": 8}  # and to how many cells: `0.46×`


class Header(Widget):
    """The names of the columns; a click sorts by one."""

    DEFAULT_CSS = "Header { height: 1; background: $panel; text-style: bold; }"

    class Clicked(Message):
        """A column's name was clicked."""

        def __init__(self, column: int) -> None:
            super().__init__()
            self.column = column

    def __init__(self) -> None:
        super().__init__()
        self._layout: list[tuple[int, int, str]] = []

    def show(self, layout: list[tuple[int, int, str]]) -> None:
        """Columns as (number, width, text)."""
        if layout != self._layout:
            self._layout = layout
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """The only line."""
        text = "  " + " ".join(set_cell_size(text, width) for _, width, text in self._layout)
        width = self.size.width
        return Strip([Segment(set_cell_size(text, width), self.rich_style)], width)

    def on_click(self, event: events.Click) -> None:
        """Sort by what is under the pointer."""
        start = 2
        for column, width, _ in self._layout:
            if start <= event.x < start + width:
                self.post_message(self.Clicked(column))
            start += width + GAP


class SiteTable(ScrollView, can_focus=True):
    """Rows and a cursor, which stays on its site when rows come, go or change places."""

    DEFAULT_CSS = """
    SiteTable { height: 1fr; overflow-x: hidden; scrollbar-gutter: stable; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--cursor", "table--mark"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "page(-1)", "page up", show=False),
        Binding("pagedown", "page(1)", "page down", show=False),
        Binding("home,g", "go(0)", "first", show=False),
        Binding("end,G", "go(-1)", "last", show=False),
    ]

    class Chosen(Message):
        """A row was clicked that the cursor was on already."""

    def __init__(self, cells: Cells, header: Header) -> None:
        super().__init__()
        self.rows: Sequence[SiteMeasures] = ()
        self.cursor = 0
        self._cells, self._header = cells, header
        self._harmful: set[str] = set()
        self._site: Site | None = None
        self._shown: list[tuple[int, int]] = []
        self._place = 0
        self._strips: dict[tuple[Site, bool, bool], Strip] = {}
        self._sorted: tuple[int | None, bool] = None, False

    @property
    def _width(self) -> int:
        return self.scrollable_content_region.width

    @property
    def site(self) -> Site | None:
        """The site under the cursor."""
        return self.rows[self.cursor].site if self.rows else None

    def show(
        self,
        rows: Sequence[SiteMeasures],
        harmful: set[str],
        order: tuple[int | None, bool],
    ) -> None:
        """Show these. The cursor follows its site, at the same height of the screen, once a person
        has moved it; before, it stays in the first line.
        """
        height = self.cursor - self.scroll_offset.y
        self.rows, self._harmful, self._sorted = rows, harmful, order
        found = (i for i, row in enumerate(rows) if row.site == self._site)
        at = next(found, None) if self._site else 0
        self.cursor = max(0, min(self.cursor if at is None else at, len(rows) - 1))
        self._lay_out()
        self.scroll_to(y=max(0, self.cursor - height), animate=False, immediate=True)
        self._into_view()
        self.refresh()

    def on_resize(self) -> None:
        """Columns may come or go."""
        self._lay_out()
        self._into_view()

    def _lay_out(self) -> None:
        table, widths = self._cells.table, self._cells.widths(self.rows)
        room = self._width - 2
        shown = list(enumerate(widths))
        with_place = sum(w + GAP for w in widths) + LEAST_PLACE <= room
        for name in DROPPED:
            if sum(w + GAP for _, w in shown) - GAP > room:
                shown = [(i, w) for i, w in shown if table[i].header != name]
        for name, least in SHORTENED.items():
            over = max(0, sum(w + GAP for _, w in shown) - GAP - room)
            shown = [
                (i, max(min(least, w), w - over) if table[i].header == name else w)
                for i, w in shown
            ]
        wide = room - sum(w + GAP for _, w in shown) if with_place else 0
        if (shown, wide) != (self._shown, self._place):
            self._shown, self._place = shown, wide
            self._strips.clear()
        last = [(len(table) - 1, self._place)] if self._place else []
        self._header.show([(i, w, self._title(table[i], i, w)) for i, w in [*shown, *last]])
        self.virtual_size = Size(self._width, len(self.rows))

    def _title(self, column: Column, number: int, width: int) -> str:
        by, reverse = self._sorted
        text = column.header + (("▲" if reverse else "▼") if by == number else "")
        return text.ljust(width) if column.left else text.rjust(width)

    def notify_style_update(self) -> None:
        """The colours have changed."""
        self._strips.clear()
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """One row, drawn once for each of its looks."""
        at = y + self.scroll_offset.y
        if at >= len(self.rows):
            return Strip.blank(self._width, self.rich_style)
        row = self.rows[at]
        look = row.site, at == self.cursor, marked(row, self._harmful)
        if look not in self._strips:
            self._strips[look] = self._drawn(row, look[1], look[2])
        return self._strips[look]

    def _drawn(self, row: SiteMeasures, cursor: bool, mark: bool) -> Strip:
        style = self.rich_style
        if cursor:
            style += self.get_component_rich_style("table--cursor")
        cells, table = self._cells(row), self._cells.table
        parts = []
        for number, room in self._shown:
            cell = _fit(cells[number], room, table[number].header == "module")
            space = " " * (room - cell_len(cell))
            parts.append(cell + space if table[number].left else space + cell)
        marking = self.get_component_rich_style("table--mark", partial=True)
        if cursor:  # its colour cannot be read there
            marking = Style()
        segments = [
            Segment(f"{MARK if mark else ' '} ", style + marking),
            Segment(" ".join(parts) + " ", style),
        ]
        if self._place:
            for part in place_words(row, self._place).render(self.app.console):
                segments.append(Segment(part.text, style + (part.style or Style())))
        return Strip(segments).adjust_cell_length(self._width, style)

    def action_move(self, rows: int) -> None:
        """Move the cursor."""
        self._go(self.cursor + rows)

    def action_page(self, pages: int) -> None:
        """Move it by what is on the screen."""
        self._go(self.cursor + pages * max(1, self.size.height - 1))

    def action_go(self, row: int) -> None:
        """Move it to the first row, or to the last (-1)."""
        self._go(row if row >= 0 else len(self.rows) + row)

    def on_click(self, event: events.Click) -> None:
        """Move it there; a click on the row that it is on opens it."""
        at = event.y + self.scroll_offset.y
        if at < len(self.rows) and at == self.cursor and self._site is not None:
            self.post_message(self.Chosen())
        elif at < len(self.rows):
            self._go(at)

    def _go(self, row: int) -> None:
        old = self.cursor
        self.cursor = max(0, min(row, len(self.rows) - 1))
        self._site = self.site
        self._into_view()
        for line in (old, self.cursor):
            self.refresh(Region(0, line - self.scroll_offset.y, self._width, 1))

    def _into_view(self) -> None:
        top, height = self.scroll_offset.y, max(1, self.size.height)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False, immediate=True)


def _fit(text: str, width: int, at_left: bool) -> str:
    """Cut to `width` cells, of names the beginning, which is alike."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[1:] if at_left else text[:-1]
    return f"…{text}" if at_left else f"{text}…"
