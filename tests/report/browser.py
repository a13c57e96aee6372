"""A headless Chromium that looks at a report as a reader does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
WITHOUT = (
    "reports are NOT looked at in a browser: no Chromium on the path; "
    "install it (apt-get install chromium) to run these tests"
)


def chromium() -> str | None:
    """The browser's program, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Seen:
    """An opened page, and everything that a quiet page does not do."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Notes what the page says and asks for, from now on."""
        self.page.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", self._dismissed)

    def _dismissed(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def quiet(self) -> None:
        """Fails if the console said anything, or anything but the file itself was asked for."""
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith(("data:", "blob:"))][1:] == []

    def drawn(self, selector: str = ".plot") -> None:
        """Waits until every figure that `selector` finds has been drawn."""
        for plot in self.page.query_selector_all(selector):
            plot.scroll_into_view_if_needed()
            plot.wait_for_selector(".main-svg")


@contextmanager
def browser() -> Iterator[Any]:
    """A running browser; the test is skipped, with the remedy, where there is none."""
    program = chromium()
    if program is None:
        pytest.skip(WITHOUT)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield running
        finally:
            running.close()


@contextmanager
def opened(running: Any, file: Path, fragment: str = "", **context: Any) -> Iterator[Seen]:
    """A page with that file, in a window of its own; `context` as playwright's new_context."""
    context.setdefault("viewport", {"width": 1280, "height": 800})
    window = running.new_context(**context)
    try:
        page = window.new_page()
        seen = Seen(page)
        seen.watch()
        page.goto(file.as_uri() + fragment)
        yield seen
    finally:
        window.close()
