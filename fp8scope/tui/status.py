"""The line at the bottom of every screen: where you are, what is still being read, which keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.content import Content
from textual.widgets import Static

if TYPE_CHECKING:
    from fp8scope.tui.screen import Browser

SCREENS = {"overview": "1", "sites": "2", "plan": "3"}
"""The main screens and their keys."""
KEYS = {"help": ("?", "help"), "command_palette": ("^p", "commands"), "quit": ("q", "quit")}


class StatusLine(Static):
    """Written anew by `tell`."""

    DEFAULT_CSS: ClassVar[str] = """
    StatusLine { dock: bottom; height: 1; background: $panel; color: $foreground; }
    """

    def on_mount(self) -> None:
        """The app knows."""
        cast("Browser", self.app).tell_status()

    on_resize = on_mount

    def tell(self, current: str, progress: str, *, unsaved: bool = False) -> None:
        """Mark the current screen, and say what is being read in the room that is left."""
        width = self.size.width or self.app.size.width
        screens = "  ".join(
            f"[@click=app.show('{name}')]"
            + (f"[reverse] {key} {name} [/]" if name == current else f" [b]{key}[/] {name} ")
            + "[/]"
            for name, key in SCREENS.items()
        )
        keys = "  ".join(
            f"[@click=app.{action}][b]{key}[/] {word}[/]" for action, (key, word) in KEYS.items()
        )
        left, right = Content.from_markup(screens), Content.from_markup(keys + " ")
        if unsaved:
            left += Content.from_markup("  [b $warning]● plan not saved[/]")
        room = width - left.cell_length - right.cell_length - 2
        middle = Content(progress).truncate(max(0, room), ellipsis=True)
        gap = " " * max(0, room - middle.cell_length)
        self.update(Content.assemble(left, "  ", middle.stylize("dim"), gap, right))
