"""A stand-in for the app: it shows one screen of a profile, and keeps what the screen asks for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.pilot import Pilot

from fp8scope.artefacts.plan import Plan
from fp8scope.profile.record import Profile
from fp8scope.report.snapshot import Snapshot, filled, opened
from fp8scope.tui.screen import BrowserScreen

NARROW, WIDE = (80, 24), (160, 50)


class Host(App[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "back"),
        Binding("c", "copy_name", "copy"),
    ]

    def __init__(self, snapshot: Snapshot, screen: BrowserScreen) -> None:
        super().__init__()
        self.animation_level = "none"
        self.snapshot, self.living = snapshot, None
        self.shown = screen
        self.left = False
        self.layers: list[str] = []
        self.problems: list[str] = []

    def on_mount(self) -> None:
        self.push_screen(self.shown)

    def open_layer(self, module: str) -> None:
        self.layers.append(module)

    def problem(self, sentence: str) -> None:
        self.problems.append(sentence)

    async def action_back(self) -> None:
        self.left = True

    def action_copy_name(self) -> None:
        self.copy_to_clipboard(str(getattr(self.shown, "named", "")))

    def know(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.shown.refresh_from(snapshot)


def snapshot_of(profile: Profile, plan: Plan | None = None, *, full: bool = True) -> Snapshot:
    """All that is known, or what is known at once."""
    first = opened(Path("profile.h5"), profile, plan)
    return [*filled(first)][-1] if full else first


def drive(
    snapshot: Snapshot,
    screen: BrowserScreen,
    steps: Callable[[Pilot[Any], Host], Awaitable[None]],
    size: tuple[int, int] = NARROW,
) -> Host:
    """Run the steps on the screen, once it has read what it wants."""

    async def run() -> Host:
        host = Host(snapshot, screen)
        async with host.run_test(size=size) as pilot:
            await settled(pilot)
            await steps(pilot, host)
        return host

    return asyncio.run(run())


async def settled(pilot: Pilot[Any]) -> None:
    """Until nothing is read any more."""
    await pilot.pause(0.06)  # a screen reads what is not only passed
    await pilot.app.workers.wait_for_complete()
    await stands_still(pilot)


async def stands_still(pilot: Pilot[Any]) -> None:
    """Until three looks in a row see the same: what is shown may come a moment after it is known,
    and a busy machine takes its time.
    """
    seen: list[str] = []
    with painted(pilot.app) as paints:
        for _ in range(100):
            before = len(paints)
            await pilot.pause(0.03)
            same = seen and len(paints) == before  # to make the text takes much longer
            seen = [*seen[-2:], seen[-1] if same else screen_text(pilot.app)]
            if len(seen) == 3 and len(set(seen)) == 1:
                return
    raise AssertionError("the screen never stood still")


@contextmanager
def painted(app: App[Any]) -> Iterator[Sized]:
    """What is painted inside, as it is painted."""
    paints, paint = deque[None](), app._display

    def counted(*what: Any) -> None:
        paints.append(None)
        paint(*what)

    app._display = counted  # type: ignore[assignment, method-assign]
    try:
        yield paints
    finally:
        del app._display


def screen_text(app: App[Any]) -> str:
    """What stands on the terminal, line by line."""
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text for strip in strips)
