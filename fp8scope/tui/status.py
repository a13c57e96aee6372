"""The line at the bottom of every screen: where you are, what is still being read, which keys."""

from __future__ import annotations

from typing import ClassVar

from textual.content import Content
from textual.message import Message
from textual.widgets import Static

SCREENS = {"overview": "1", "sites": "2", "plan": "3"}
"""The main screens and their keys."""
KEYS = {"help": ("?", "help"), "command_palette": ("^p", "palette"), "quit": ("q", "quit")}


class StatusLine(Static):
    """Written anew by `tell`."""

    DEFAULT_CSS: ClassVar[str] = """
    StatusLine { dock: bottom; height: 1; background: $panel; color: $foreground; }
    """

    class Asked(Message):
        """What is there to tell?"""

        def __init__(self, line: StatusLine) -> None:
            super().__init__()
            self.line = line

    def ask(self) -> None:
        """Have the app write it anew."""
        self.app.post_message(self.Asked(self))  # does not bubble when a screen asks its own line

    def on_resize(self) -> None:
        """There is more room, or less."""
        self.ask()

    def tell(self, current: str, progress: str, *, unsaved: bool = False) -> None:
        """Mark the current screen, and say what is being read in the room that is left."""
        width = self.size.width or self.app.size.width
        screens = "".join(
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
            left += Content.from_markup("  [$warning]●[/] [b]plan not saved[/]")
        room = width - left.cell_length - right.cell_length - 2
        middle = Content(progress).truncate(max(0, room), ellipsis=True)
        gap = " " * max(0, room - middle.cell_length)
        self.update(Content.assemble(left, "  ", middle.stylize("dim"), gap, right))
