"""A heatmap with a cursor: rows that scroll under a header, painted line by line.

It knows nothing of models: it shows cells, moves among those that are there, and says where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from fp8scope.report.colours import digit
from fp8scope.tui.colours import precision_style, shade

HEADER = 2
NARROWEST, WIDEST, TALLEST = 3, 12, 3
GAP = "·"
"""Stands for a number that is not known, or not yet."""

At = tuple[int, int]


@dataclass(frozen=True)
class Cell:
    """What a cell shows: its texts in less and less room, on a level in [0, 1] or a precision."""

    texts: Sequence[str]
    tone: float | str


class Heat(ScrollView, can_focus=True, inherit_bindings=False):
    """Cells by (row, column); those without a number are `known` but not in `cells`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "move", show=False),
        Binding("down,j", "move(1, 0)", "move", show=False),
        Binding("left,h", "move(0, -1)", "move", show=False),
        Binding("right,l", "move(0, 1)", "move", show=False),
        Binding("pageup", "page(-1)", "a screen up or down", show=False),
        Binding("pagedown", "page(1)", "a screen up or down", show=False),
        Binding("home", "edge(0)", "first or last block", show=False),
        Binding("end", "edge(-1)", "first or last block", show=False),
        Binding("enter", "open", "open the layer under the cursor", show=False),
    ]
    DEFAULT_CSS = "Heat { scrollbar-size-vertical: 1; scrollbar-size-horizontal: 1; }"

    class Moved(Message):
        """The cursor, or the mouse, is on another cell."""

    class Opened(Message):
        """The cell under the cursor is asked for."""

    def __init__(self, rows: Sequence[str], columns: Sequence[str], known: frozenset[At]) -> None:
        super().__init__()
        self._rows, self._columns, self._known = rows, columns, known
        self._cells: Mapping[At, Cell] = {}
        self._label = max(map(cell_len, rows), default=0) + 2
        self._by_row = [
            [column for column in range(len(columns)) if (row, column) in known]
            for row in range(len(rows))
        ]
        self.cursor: At = min(known, default=(0, 0))
        self.hovered: At | None = None

    @property
    def pointed(self) -> At:
        """The cell under the mouse, or else under the cursor."""
        return self.hovered or self.cursor

    def show(self, cells: Mapping[At, Cell]) -> None:
        """Paint these, if they are others."""
        if cells != self._cells:
            self._cells = cells
            self.refresh()

    def move_to(self, at: At) -> None:
        """Put the cursor on a cell, and scroll so that it is seen."""
        if at not in self._known:
            return
        rows = {place[0] for place in (self.cursor, at, self.hovered) if place}
        self.cursor, self.hovered = at, None
        self._reveal()
        self._repaint(*rows)
        self.post_message(self.Moved())

    # --- layout -----------------------------------------------------------------------------

    @property
    def _width(self) -> int:
        """Of a cell, so that all fit if they can."""
        room = self.size.width - self._label
        return min(WIDEST, max(NARROWEST, room // max(1, len(self._columns))))

    @property
    def _height(self) -> int:
        return min(TALLEST, max(1, self._room // max(1, len(self._rows))))

    @property
    def _room(self) -> int:
        """Lines for rows."""
        return max(1, self.size.height - HEADER)

    def on_resize(self) -> None:
        """Fit the cells to the room there is."""
        width = self._label + self._width * len(self._columns)
        self.virtual_size = Size(width, HEADER + self._height * len(self._rows))
        self._reveal()

    def _reveal(self) -> None:
        row, column = self.cursor
        top, height = row * self._height, self._height
        y = min(top, max(self.scroll_offset.y, top + height - self._room))
        room = self.size.width - self._label
        left, width = column * self._width, self._width
        x = min(left, max(self.scroll_offset.x, left + width - room))
        self.scroll_to(x, y, animate=False, immediate=True)

    def _at(self, x: int, y: int) -> At | None:
        """The cell at a place of the widget."""
        if x < self._label or y < HEADER:
            return None
        row = (y - HEADER + self.scroll_offset.y) // self._height
        at = (row, (x - self._label + self.scroll_offset.x) // self._width)
        return at if at in self._known else None

    def _repaint(self, *rows: int) -> None:
        """The header and these rows alone: a line to a server may be slow."""
        width, height = self.size.width, self._height
        tops = (HEADER + row * height - self.scroll_offset.y for row in rows)
        self.refresh(Region(0, 0, width, HEADER), *(Region(0, y, width, height) for y in tops))

    # --- painting ---------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """A line of the widget: the header stays, rows and columns scroll."""
        base = self.rich_style
        if y < HEADER:
            label = Segment(" " * self._label, base)
            body = self._parents(base) if y == 0 else self._names(base)
        else:
            row, line = divmod(y - HEADER + self.scroll_offset.y, self._height)
            if row >= len(self._rows):
                return Strip.blank(self.size.width, base)
            middle = line == (self._height - 1) // 2
            name = self._rows[row] if middle else ""
            label = Segment(
                f"{name:>{self._label - 1}} ",
                base + Style(bold=True) if row == self.cursor[0] else base,
            )
            body = self._row(row, middle, base)
        x, room = self.scroll_offset.x, max(0, self.size.width - self._label)
        return Strip.join([Strip([label]), Strip(body).crop_extend(x, x + room, base)])

    def _parents(self, base: Style) -> list[Segment]:
        """What the columns belong to, once for each run of them."""
        found = []
        for parent, run in groupby(column.rpartition(".")[0] for column in self._columns):
            room = self._width * len(list(run))
            found.append(Segment(f"{_fitted(parent, room - 1):<{room}}", base + Style(dim=True)))
        return found

    def _names(self, base: Style) -> list[Segment]:
        """The columns' last parts, all without `_proj` where one would not fit with it."""
        room = self._width - 1
        names = [column.rpartition(".")[2] for column in self._columns]
        if any(cell_len(name) > room for name in names):
            names = [name.removesuffix("_proj").removesuffix("_cache") for name in names]
        return [
            Segment(f"{_fitted(name, room):>{room}} ", base + Style(bold=at == self.cursor[1]))
            for at, name in enumerate(names)
        ]

    def _row(self, row: int, middle: bool, base: Style) -> list[Segment]:
        dark = self.app.current_theme.dark
        return [
            self._cell((row, column), middle, base, dark) for column in range(len(self._columns))
        ]

    def _cell(self, at: At, middle: bool, base: Style, dark: bool) -> Segment:
        width = self._width
        if at not in self._known:
            return Segment(" " * width, base)
        cell = self._cells.get(at)
        text, style = GAP, base + Style(dim=True)
        if cell is not None:
            text, style = _text(cell, width - 1), _style(cell.tone, dark)
        shown = (text if middle else "").rjust(width - 1) + " "
        if at == self.cursor:
            style += Style(bold=True, reverse=True, dim=False)
            if middle and self.has_focus:
                shown = f"▸{shown[1:]}" if shown.startswith(" ") else shown
        elif at == self.hovered:
            style += Style(underline=True, bold=True)
        return Segment(shown, style)

    # --- keys and mouse ---------------------------------------------------------------------

    def action_move(self, down: int, right: int) -> None:
        """To the next cell that is there; up and down to the nearest column."""
        row, column = self.cursor
        if right:
            there = [c for c in self._by_row[row] if (c - column) * right > 0]
            if there:
                self.move_to((row, min(there, key=lambda c: abs(c - column))))
            return
        self._to_row(row + down)

    def action_page(self, down: int) -> None:
        """A screen of rows."""
        self._to_row(self.cursor[0] + down * max(1, self._room // self._height))

    def action_edge(self, row: int) -> None:
        """The first or the last row."""
        self._to_row(row % max(1, len(self._rows)))

    def action_open(self) -> None:
        """Ask for the cell under the cursor."""
        if self.cursor in self._known:
            self.post_message(self.Opened())

    def _to_row(self, row: int) -> None:
        row = min(len(self._rows) - 1, max(0, row))
        if row >= 0 and self._by_row[row]:
            column = min(self._by_row[row], key=lambda c: abs(c - self.cursor[1]))
            self.move_to((row, column))

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Say what is under the mouse."""
        self._hover(self._at(event.x, event.y))

    def on_leave(self) -> None:
        """Back to the cursor."""
        self._hover(None)

    def on_click(self, event: events.Click) -> None:
        """Once moves the cursor, twice opens."""
        at = self._at(event.x, event.y)
        if at is None:
            return
        self.move_to(at)
        if event.chain == 2:
            self.action_open()

    def _hover(self, at: At | None) -> None:
        if at != self.hovered:
            rows = {place[0] for place in (at, self.hovered) if place}
            self.hovered = at
            self._repaint(*rows)
            self.post_message(self.Moved())


def _text(cell: Cell, room: int) -> str:
    """The longest text that fits; where none does, its shade's digit."""
    fitting = (text for text in cell.texts if cell_len(text) <= room)
    return next(fitting, str(digit(cell.tone)) if isinstance(cell.tone, float) else "?")


def _style(tone: float | str, dark: bool) -> Style:
    if isinstance(tone, str):
        return precision_style(tone, dark)
    return shade(digit(tone), dark)


def _fitted(name: str, room: int) -> str:
    """The name, cut where it is too long."""
    return name if cell_len(name) <= room else name[: max(0, room - 1)] + "…"
