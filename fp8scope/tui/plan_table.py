"""A table with a cursor that paints only the lines that are seen, so that length costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from fp8scope.report.colours import PRECISIONS
from fp8scope.tui.colours import precision_style

Tone = str
"""`bold`, `dim`, the name of a precision, or "" for plain."""


@dataclass(frozen=True)
class Column:
    """A heading, and how wide its cells are."""

    title: str
    width: int
    align: Literal["left", "right"] = "right"


class Named(Protocol):
    """A row: its name tells it from the others."""

    @property
    def name(self) -> str:
        """Whose row it is."""


R = TypeVar("R", bound=Named)


class PlanTable(ScrollView, Generic[R], can_focus=True, inherit_bindings=False):
    """Rows under a heading; the first `fixed` columns do not scroll sideways."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "up", show=False),
        Binding("down", "move(1)", "down", show=False),
        Binding("pageup", "page(-1)", "a screen up", show=False),
        Binding("pagedown", "page(1)", "a screen down", show=False),
        Binding("home", "edge(0)", "first row", show=False),
        Binding("end", "edge(-1)", "last row", show=False),
        Binding("left", "sideways(-1)", "columns to the left", show=False),
        Binding("right", "sideways(1)", "columns to the right", show=False),
        Binding("enter", "open", "open the layer under the cursor", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"plan-table--cursor"}
    DEFAULT_CSS = """
    PlanTable { scrollbar-size-vertical: 1; scrollbar-size-horizontal: 1; }
    PlanTable > .plan-table--cursor { background: $primary 40%; text-style: bold; }
    """

    class Moved(Message):
        """The cursor is on another row."""

    class Opened(Message):
        """The row under the cursor is asked for."""

    def __init__(self, fixed: int, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._fixed = fixed
        self._columns: Sequence[Column] = ()
        self._lines: Sequence[R] = ()
        self._cells: Callable[[R], Sequence[tuple[str, Tone]]] = lambda _: ()
        self.cursor = 0

    @property
    def key(self) -> str | None:
        """Whose row the cursor is on."""
        return self._lines[self.cursor].name if self._lines else None

    def show(
        self,
        columns: Sequence[Column],
        rows: Sequence[R],
        cells: Callable[[R], Sequence[tuple[str, Tone]]],
    ) -> None:
        """Paint these; `cells` with their tones are asked for of rows that are seen. The cursor
        stays with its row, and goes to the first where that is no more.
        """
        key = self.key
        self._columns, self._lines, self._cells = columns, rows, cells
        self.cursor = next((i for i, row in enumerate(rows) if row.name == key), 0)
        self._measure()
        self.refresh()

    # --- layout -----------------------------------------------------------------------------

    def on_resize(self) -> None:
        """Keep the cursor in sight."""
        self._measure()

    def _measure(self) -> None:
        width = sum(column.width + 1 for column in self._columns)
        self.virtual_size = Size(width, 1 + len(self._lines))
        top = self.scroll_offset.y
        y = min(self.cursor, max(top, self.cursor - self._room + 1))
        if y != top:
            self.scroll_to(y=y, animate=False, immediate=True)

    @property
    def _room(self) -> int:
        return max(1, self.size.height - 1)

    # --- painting ---------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """A line of the widget: the heading stays."""
        base = self.rich_style
        if y == 0:
            style = base + Style(bold=True, underline=True)
            cells = [Segment(_fit(c.title, c) + " ", style) for c in self._columns]
            return self._strip(cells, style)
        number = y - 1 + self.scroll_offset.y
        if number >= len(self._lines):
            return Strip.blank(self.size.width, base)
        if number == self.cursor:
            base += self.get_component_rich_style("plan-table--cursor")
        texts = self._cells(self._lines[number])
        cells = [self._cell(*pair, base) for pair in zip(self._columns, texts, strict=True)]
        return self._strip(cells, base)

    def _cell(self, column: Column, cell: tuple[str, Tone], base: Style) -> Segment:
        text, tone = cell
        style = base
        if tone in PRECISIONS:
            style = precision_style(tone, self.app.current_theme.dark)
        elif tone:
            style += Style(
                bold=tone == "bold" or None, dim=(tone == "dim" and not base.bold) or None
            )
        return Segment(_fit(text, column) + " ", style)

    def _strip(self, cells: list[Segment], base: Style) -> Strip:
        fixed, rest = Strip(cells[: self._fixed]), Strip(cells[self._fixed :])
        x, room = self.scroll_offset.x, max(0, self.size.width - fixed.cell_length)
        return Strip.join([fixed, rest.crop_extend(x, x + room, base)])

    # --- keys and mouse ---------------------------------------------------------------------

    def move_to(self, number: int) -> None:
        """Put the cursor on a row."""
        if not self._lines:
            return
        before, self.cursor = self.cursor, min(len(self._lines) - 1, max(0, number))
        self._measure()
        for row in (before, self.cursor):
            self.refresh(Region(0, 1 + row - self.scroll_offset.y, self.size.width, 1))
        self.post_message(self.Moved())

    def action_move(self, down: int) -> None:
        """A row."""
        self.move_to(self.cursor + down)

    def action_page(self, down: int) -> None:
        """A screen of rows."""
        self.move_to(self.cursor + down * self._room)

    def action_edge(self, number: int) -> None:
        """The first or the last row."""
        self.move_to(number % max(1, len(self._lines)))

    def action_sideways(self, right: int) -> None:
        """Some columns."""
        self.scroll_relative(x=10 * right, animate=False)

    def action_open(self) -> None:
        """Ask for the row."""
        if self._lines:
            self.post_message(self.Opened())

    def on_click(self, event: events.Click) -> None:
        """Once moves the cursor, twice opens."""
        number = event.y - 1 + self.scroll_offset.y
        if event.y < 1 or number >= len(self._lines):
            return
        self.move_to(number)
        if event.chain == 2:
            self.action_open()


def _fit(text: str, column: Column) -> str:
    if cell_len(text) > column.width:
        return set_cell_size(text, column.width - 1) + "…"
    space = " " * (column.width - cell_len(text))
    return text + space if column.align == "left" else space + text
