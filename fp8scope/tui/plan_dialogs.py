"""What the plan's screen asks for: a line of text, a consumer and a file, yes or no."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Checkbox, Input, Label, OptionList

CSS = """
{name} { align: center middle; }
{name} Vertical {
    width: 76; max-width: 96%; height: auto; max-height: 90%;
    border: round $primary; padding: 0 1; background: $surface;
}
{name} .title { text-style: bold; }
{name} .hint { color: $foreground 70%; }
{name} Input { margin: 0; }
{name} OptionList { height: auto; max-height: 12; }
"""


class Answer(NamedTuple):
    """A line, and whether the box beside it is ticked."""

    text: str
    ticked: bool


class LineDialog(ModalScreen[Answer | None]):
    """Asks for one line. `box` is what a box beside it says, ticked at first; "" is no box."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "back")]
    DEFAULT_CSS = CSS.replace("{name}", "LineDialog")

    def __init__(self, title: str, hint: str, text: str = "", box: str = "") -> None:
        super().__init__()
        self._title, self._hint, self._text, self._box = title, hint, text, box

    def compose(self) -> ComposeResult:
        """Title, hint, the line, the box."""
        with Vertical():
            yield Label(Text(self._title), classes="title")
            yield Label(Text(self._hint), classes="hint")
            yield Input(self._text, id="line")
            if self._box:
                yield Checkbox(self._box, value=True, compact=True)

    def on_mount(self) -> None:
        """The line first."""
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """That is it."""
        ticked = all(box.value for box in self.query(Checkbox))
        self.dismiss(Answer(event.value, ticked))


class ExportDialog(ModalScreen[tuple[str, str] | None]):
    """Asks for a consumer, and for a file, which `suggest` proposes for each consumer."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "back")]
    DEFAULT_CSS = CSS.replace("{name}", "ExportDialog")

    def __init__(self, names: Sequence[str], suggest: Callable[[str], str]) -> None:
        super().__init__()
        self._names, self._suggest = list(names), suggest
        self._chosen = self._names[0]

    def compose(self) -> ComposeResult:
        """The consumers, then the file."""
        with Vertical():
            yield Label("Export the plan: for whom?", classes="title")
            yield OptionList(*map(Text, self._names))
            yield Label("File (enter chooses, then writes)", classes="hint")
            yield Input(self._suggest(self._chosen), id="line")

    def on_mount(self) -> None:
        """The list first."""
        self.query_one(OptionList).focus()

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Propose its usual file."""
        self._chosen = self._names[event.option_index]
        self.query_one(Input).value = self._suggest(self._chosen)

    def on_option_list_option_selected(self) -> None:
        """On to the file."""
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """That is it."""
        self.dismiss((self._chosen, event.value))


class YesNo(ModalScreen[bool]):
    """Asks whether to; enter or y is yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "dismiss(True)", "yes"),
        Binding("n,escape,q", "dismiss(False)", "no"),
    ]
    DEFAULT_CSS = CSS.replace("{name}", "YesNo")

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """The question."""
        with Vertical():
            yield Label(Text(self._question), classes="title")
            yield Label("y or enter: yes    n or escape: no", classes="hint")
