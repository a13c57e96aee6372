"""The frame of the browser: it opens a profile, reads it bit by bit, and shows one of its screens.

The frame is painted before the profile is opened, so it imports nothing but textual; what the
screens need is imported by the thread that reads, while the frame is already there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static
from textual.worker import Worker, get_current_worker

from fp8scope.errors import in_words
from fp8scope.tui import colours, commands

if TYPE_CHECKING:
    from fp8scope.report.snapshot import Snapshot
    from fp8scope.tui.living import Living
    from fp8scope.tui.screen import BrowserScreen
    from fp8scope.tui.status import StatusLine

LATEST = 0.25
"""Seconds between two refreshes while the profile is read."""
KEYS_FIRST = 0.06
"""Seconds for which nothing is read after a key: Python does one thing at a time."""


SCREENS = {
    "overview": ("fp8scope.tui.overview", "OverviewScreen"),
    "sites": ("fp8scope.tui.sites", "SitesScreen"),
    "plan": ("fp8scope.tui.plan_screen", "PlanScreen"),
}
"""Module and class of each main screen, imported when it is first shown."""


def screen_class(mode: str) -> type[BrowserScreen]:
    """The class of a main screen."""
    module, name = SCREENS[mode]
    return cast("type[BrowserScreen]", getattr(import_module(module), name))


class BrowseApp(App[None]):
    """`start` opens the profile; what it raises ends the browser, and is then its `refusal`."""

    TITLE = "fp8scope"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[None]]]] = {
        mode: partial(lambda mode: screen_class(mode)(), mode) for mode in SCREENS
    }
    COMMANDS = {commands.everything}  # noqa: RUF012  (textual's type)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "show('overview')", "overview"),
        Binding("2", "show('sites')", "sites"),
        Binding("3", "show('plan')", "plan"),
        Binding("escape", "back", "back"),
        Binding("slash", "search", "search a module by name"),
        Binding("c", "copy_name", "copy the name under the cursor"),
        Binding("d", "dark", "dark or light"),
        Binding("question_mark", "help", "help"),
        Binding("q", "quit", "quit"),
    ]
    CSS = "#opening { width: 100%; height: 100%; content-align: center middle; }"

    class Opened(Message):
        """The profile is open."""

        def __init__(self, snapshot: Snapshot) -> None:
            super().__init__()
            self.snapshot = snapshot

    class Read(Opened):
        """More of it is known."""

    class Failed(Message):
        """Reading ended early."""

        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

    snapshot: Snapshot

    def __init__(self, start: Callable[[], Snapshot], title: str = "the profile") -> None:
        super().__init__()
        self._start, self._subject = start, title
        self.living: Living | None = None
        self.refusal: Exception | None = None
        self._ended = self._due = False
        self._pressed = 0.0
        for theme in (colours.DARK, colours.LIGHT):
            self.register_theme(theme)
        self.theme = colours.DARK.name

    def compose(self) -> ComposeResult:
        """What is there until the profile is open."""
        yield Static(f"Opening {self._subject} …", id="opening", markup=False)

    def on_mount(self) -> None:
        """Open and read, once the frame is painted."""
        self.call_after_refresh(self.run_worker, self._read, thread=True, exit_on_error=False)

    # --- reading, in a thread -----------------------------------------------------------------

    def _read(self) -> None:
        worker = get_current_worker()
        try:
            from fp8scope.report.snapshot import filled
            from fp8scope.tui import overview  # noqa: F401  # so that the loop need not import it

            snapshot = self._start()
            self.post_message(self.Opened(snapshot))
            for more in filled(snapshot, stop=partial(self._made_way, worker)):
                self.post_message(self.Read(more))
        except Exception as error:
            self.post_message(self.Failed(error))

    def _made_way(self, worker: Worker[None]) -> bool:
        """Wait while keys are pressed, and say whether to stop."""
        while time.monotonic() < self._pressed + KEYS_FIRST and not worker.is_cancelled:
            time.sleep(KEYS_FIRST / 10)
        return worker.is_cancelled

    async def on_event(self, event: events.Event) -> None:
        """Keys go before reading."""
        if isinstance(event, events.Key):
            self._pressed = time.monotonic()
        await super().on_event(event)

    def on_browse_app_opened(self, message: Opened) -> None:
        """Show the overview."""
        self.snapshot = message.snapshot
        self.sub_title = str(self.snapshot.path)
        self.switch_mode("overview")

    def on_browse_app_read(self, message: Read) -> None:
        """Show it soon, and not too often."""
        self.snapshot = message.snapshot
        if not self._due:
            self._due = True
            self.set_timer(LATEST, self._catch_up)

    def on_browse_app_failed(self, message: Failed) -> None:
        """Before anything is shown there is nothing to stay for."""
        self._ended = True
        if not self.started:
            self.refusal = message.error
            self.exit()
            return
        self.problem(in_words(message.error))
        self._catch_up()

    @property
    def started(self) -> bool:
        """Whether the profile is open."""
        return hasattr(self, "snapshot")

    @property
    def busy(self) -> bool:
        """Whether something is known that is not shown yet."""
        return self._due

    @property
    def progress(self) -> str:
        """What is still being read, or ""."""
        return "" if self._ended else self.snapshot.unread

    def _catch_up(self) -> None:
        self._due = False
        screen = self._browser_screen()
        if screen is not None and self.is_running:
            screen.catch_up()

    def on_status_line_asked(self, message: StatusLine.Asked) -> None:
        """Write the line at the bottom anew."""
        unsaved = self.living is not None and self.living.changed
        said = "not all could be read" if self._ended else self.progress
        message.line.tell(self.current_mode, said, unsaved=unsaved)

    def _browser_screen(self) -> BrowserScreen | None:
        """The uppermost screen of ours, be it under a modal one."""
        from fp8scope.tui.screen import BrowserScreen

        found = (one for one in reversed(self.screen_stack) if isinstance(one, BrowserScreen))
        return next(found, None)

    # --- what screens ask for -----------------------------------------------------------------

    def open_layer(self, module: str) -> None:
        """Show a module, a fused group or a cache on its own screen."""
        from fp8scope.tui.layer import LayerScreen

        self.push_screen(LayerScreen(module))

    def problem(self, sentence: str) -> None:
        """Tell the person what went wrong."""
        self.notify(sentence, title="That did not work", severity="error", timeout=15, markup=False)

    # --- keys ---------------------------------------------------------------------------------

    async def action_show(self, mode: str) -> None:
        """Show a main screen, without what lies on top of it."""
        if not self.started:
            return
        if self.current_mode != mode:
            await self.switch_mode(mode)
        while len(self.screen_stack) > 1:
            await self.pop_screen()

    async def action_back(self) -> None:
        """To the screen below."""
        if len(self.screen_stack) > 1:
            await self.pop_screen()

    def action_search(self) -> None:
        """Find a module by name, and open it."""
        if self.started:
            self.push_screen(commands.search())

    def action_copy_name(self) -> None:
        """Copy what the cursor is on."""
        screen = self._browser_screen()
        name = screen.named if screen is not None else None
        if name is None:
            self.notify("There is no name under the cursor.", severity="warning")
            return
        self.copy_to_clipboard(name)
        self.notify(name, title="Copied", markup=False)

    def action_dark(self) -> None:
        """Our dark theme, or our light one."""
        self.theme = (colours.LIGHT if self.current_theme.dark else colours.DARK).name
        self._catch_up()

    def action_help(self) -> None:
        """What the screen shows, and its keys."""
        from fp8scope.tui.help import HelpScreen

        screen = self._browser_screen()
        if screen is not None:
            self.push_screen(HelpScreen(screen.HELP, screen.active_bindings))

    async def action_quit(self) -> None:
        """Leave; with a plan that is not saved, only if that is meant."""
        if self.living is None or not self.living.changed:
            self.exit()
            return
        from fp8scope.tui.quitting import QuitScreen

        if not isinstance(self.screen, QuitScreen):
            self.push_screen(QuitScreen(self.living.own_path), self._quit)

    def action_help_quit(self) -> None:
        """Ctrl-C leaves as well, where no text is marked to be copied."""
        self.call_later(self.action_quit)

    def _quit(self, answer: str | None) -> None:
        if answer == "discard":
            self.exit()
        elif answer == "save":
            self.notify("Saving the plan …")
            self.run_worker(self._save, thread=True, exit_on_error=False)

    def _save(self) -> None:
        """Save and leave, in a thread: it takes seconds of a large model."""
        try:
            if self.living is not None:
                self.living.save()
        except Exception as error:
            self.call_from_thread(self.problem, in_words(error))
        else:
            # asks again where something was changed meanwhile
            self.call_from_thread(self.call_later, self.action_quit)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Those of ours; textual's own would open its own help and themes."""
        yield SystemCommand("Dark or light", "Change the colours", self.action_dark)
        yield SystemCommand("Theme", "Choose one of all themes", self.action_change_theme)
        yield SystemCommand("Quit", "Asks first if the plan is not saved", self.action_quit)

    def release_terminal(self) -> None:
        """Leave it as it was, where the process is about to end in the middle of all."""
        if self.is_running and self._driver is not None:
            self._driver.stop_application_mode()
            self._driver.close()

    def _fatal_error(self) -> None:
        """Leave without textual's traceback: the command line says it in one line."""
        self.refusal = cast(Exception, self._exception)
        self._close_messages_no_wait()
