"""What every screen of the browser has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from textual.screen import Screen

from fp8scope.tui.snapshot import Snapshot

if TYPE_CHECKING:
    from fp8scope.tui.living import Living


class Browser(Protocol):
    """What a screen may ask of the app."""

    snapshot: Snapshot
    living: Living | None

    def open_layer(self, module: str) -> None:
        """Show a module, a fused group or the attention module of a cache on its own screen."""

    def problem(self, sentence: str) -> None:
        """Tell the person what went wrong; nothing is ever raised at them."""


class BrowserScreen(Screen[None]):
    """A screen that is shown anew whenever more is known, or the plan has changed."""

    HELP = ""
    """What the screen shows and how to read it, in Markdown; its keys are added by the app."""

    @property
    def browser(self) -> Browser:
        """The app."""
        return cast(Browser, self.app)

    def on_mount(self) -> None:
        """Show what is known."""
        self.refresh_from(self.browser.snapshot)

    def refresh_from(self, snapshot: Snapshot) -> None:
        """Show this snapshot, which knows more than the last. Must be quick: keys wait for it."""
        raise NotImplementedError
