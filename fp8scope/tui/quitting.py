"""Leaving with a plan that is not saved."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Label


class QuitScreen(ModalScreen[str]):
    """Dismissed with `save`, `discard` or `cancel`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s,y", "dismiss('save')", "save and quit"),
        Binding("d", "dismiss('discard')", "quit without saving"),
        Binding("c,escape,q", "dismiss('cancel')", "stay"),
        Binding("left", "app.focus_previous", "the button before", show=False),
        Binding("right", "app.focus_next", "the next button", show=False),
    ]
    DEFAULT_CSS = """
    QuitScreen { align: center middle; }
    QuitScreen Vertical {
        width: 60; height: auto; border: round $warning; padding: 1 2; background: $surface;
    }
    QuitScreen #where { color: $foreground 70%; }
    QuitScreen Horizontal { height: auto; margin-top: 1; }
    QuitScreen Button { width: 1fr; }
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def compose(self) -> ComposeResult:
        """The question, where saving would write to, and three answers."""
        with Vertical():
            yield Label("The plan has changes that are not saved.")
            yield Label(Text(f"Save writes {self._path}"), id="where")
            with Horizontal():
                yield Button("[u]S[/]ave", id="save", variant="primary", compact=True)
                yield Button("[u]D[/]iscard", id="discard", compact=True)
                yield Button("[u]C[/]ancel", id="cancel", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """One of the three."""
        self.dismiss(event.button.id)
