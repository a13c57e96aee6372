"""A list to choose from, on top of a screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Label, OptionList


class Picker(ModalScreen[str | None]):
    """Dismissed with the name that was chosen, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss(None)", "back")]
    DEFAULT_CSS = """
    Picker { align: center middle; }
    Picker Vertical {
        width: auto; height: auto; max-width: 90%; max-height: 80%;
        border: round $primary; padding: 0 1; background: $surface;
    }
    Picker Label { text-style: bold; }
    Picker OptionList { width: auto; min-width: 40; height: auto; }
    Picker OptionList, Picker OptionList:focus { border: none; background: $surface; }
    """

    def __init__(self, title: str, names: Sequence[str], current: str) -> None:
        super().__init__()
        self._title, self._names, self._current = title, list(names), current

    def compose(self) -> ComposeResult:
        """Title and list."""
        with Vertical():
            yield Label(Text(self._title))
            yield OptionList(*map(Text, self._names))

    def on_mount(self) -> None:
        """Start at what is chosen now."""
        choices = self.query_one(OptionList)
        choices.highlighted = self._names.index(self._current)
        choices.focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """That is it."""
        self.dismiss(self._names[event.option_index])
