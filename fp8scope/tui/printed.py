"""What rich prints, as a widget: rendered once for its width, whatever the layout asks."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget


class Printed(Widget):
    """Tables and sentences of the reports. Textual would render them twice for every layout."""

    DEFAULT_CSS = "Printed { height: auto; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id, classes=classes)
        self._shown: RenderableType = Text()
        self._width, self._strips = 0, list[Strip]()

    def show(self, renderable: RenderableType) -> None:
        """Show this."""
        self._shown, self._width = renderable, 0
        self.refresh(layout=True)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Lines at this width."""
        return len(self._rendered(width))

    def render_line(self, y: int) -> Strip:
        """One line of the content, in the widget's colours."""
        strips, width = self._rendered(self.content_size.width), self.content_size.width
        strip = strips[y] if y < len(strips) else Strip([])
        return strip.apply_style(self.rich_style).adjust_cell_length(width, self.rich_style)

    def _rendered(self, width: int) -> list[Strip]:
        if width != self._width:
            options = self.app.console_options.update(width=width, height=None, highlight=False)
            lines = self.app.console.render_lines(self._shown, options, pad=False)
            self._width, self._strips = width, [Strip(line) for line in lines]
        return self._strips
