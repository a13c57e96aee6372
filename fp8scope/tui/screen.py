"""What every screen of the browser has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from textual.screen import Screen

from fp8scope.errors import Fp8scopeError
from fp8scope.report.snapshot import Snapshot
from fp8scope.tui.status import StatusLine

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

    @property
    def named(self) -> str | None:
        """The full name under the cursor, which `c` copies."""
        return None

    def on_mount(self) -> None:
        """The line at the bottom is the same everywhere."""
        self.mount(StatusLine())

    def on_screen_resume(self) -> None:
        """Show what is known by now: others may have been on top for a while."""
        self.catch_up()

    def catch_up(self) -> None:
        """Show what is known, or say why that cannot be."""
        try:
            self.refresh_from(self.browser.snapshot)
        except Fp8scopeError as error:
            self.browser.problem(str(error))
        self.tell_status()

    def tell_status(self) -> None:
        """Have the line at the bottom written anew."""
        for line in self.query(StatusLine):
            line.ask()

    def refresh_from(self, snapshot: Snapshot) -> None:
        """Show this snapshot, which knows more than the last. Must be quick: keys wait for it."""
        raise NotImplementedError
