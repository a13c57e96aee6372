"""Help on a screen: what it shows, and every key that works there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rich import box
from rich.table import Table
from textual.app import App, ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Markdown, Static


class HelpScreen(ModalScreen[None]):
    """Text in Markdown, and the bindings as they were on the screen below."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss(None)", "back")
    ]
    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen VerticalScroll {
        width: 92%; max-width: 100; height: auto; max-height: 92%;
        border: round $primary; border-title-color: $primary;
        border-subtitle-color: $foreground; padding: 0 1; background: $surface;
    }
    HelpScreen Markdown { background: $surface; margin: 0; padding: 0; }
    HelpScreen #keys { height: auto; }
    """

    def __init__(self, text: str, bindings: Mapping[str, ActiveBinding]) -> None:
        super().__init__()
        self._said, self._active = text, bindings

    def compose(self) -> ComposeResult:
        """Keys first: they are what is looked up."""
        with VerticalScroll() as box_:
            box_.border_title, box_.border_subtitle = "Help", "escape closes"
            yield Static(self._keys(), id="keys")
            yield Markdown(self._said, open_links=False)

    def _keys(self) -> Table:
        """One row for each thing that can be done, with all its keys."""
        keys: dict[str, list[str]] = {}
        for active in sorted(self._active.values(), key=_rank):
            binding = active.binding
            if binding.description and not binding.system:
                shown = keys.setdefault(_small(binding.description), [])
                shown.append(self.app.get_key_display(binding))
        table = Table(box=box.SIMPLE_HEAD, show_header=False, show_edge=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for description, names in keys.items():
            table.add_row(" ".join(dict.fromkeys(names)), description)
        return table


def _small(words: str) -> str:
    """`Focus Next`, as textual writes it, like ours: but `FP8` and `KL` stay."""
    return " ".join(word.lower() if word.istitle() else word for word in words.split(" "))


def _rank(active: ActiveBinding) -> int:
    """The screen's own keys first, then those of what has the focus, then those that work
    everywhere, and last textual's.
    """
    if active.binding.action in _TEXTUAL:
        return 3
    if isinstance(active.node, App):
        return 2
    return 0 if isinstance(active.node, Screen) else 1


_TEXTUAL = {
    binding.action
    for base in (App, Screen)
    for binding in base.BINDINGS
    if isinstance(binding, Binding)
}
