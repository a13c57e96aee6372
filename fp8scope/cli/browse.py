"""`fp8scope browse`: a profile on screens, in a terminal or a browser."""

from __future__ import annotations

import gc
import os
import shlex
import sys
from pathlib import Path

import click

from fp8scope.cli.interrupts import Interrupts
from fp8scope.errors import BadInput, Missing

SERVED = "TEXTUAL_DRIVER"
"""Set by textual-serve for the browser that it runs without a terminal."""


@click.command(name="browse", short_help="Look around in a profile, and change a plan.")
@click.argument("profile", type=click.Path(path_type=Path))
@click.option("--plan", metavar="PLAN", type=click.Path(path_type=Path), help="A plan of it.")
@click.option("--serve", is_flag=True, help="In a web browser, on this machine alone.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of --serve.  [default: 8000]")
@click.pass_obj
def command(
    interrupts: Interrupts, profile: Path, plan: Path | None, serve: bool, port: int | None
) -> None:
    """Look around in a profile: every layer in one heatmap, tables, histograms, the plan. `?` shows
    the keys.

    \b
    fp8scope browse profile.h5
    fp8scope browse profile.h5 --plan plan.json
    fp8scope browse profile.h5 --serve
    """
    if port is not None and not serve:
        raise BadInput("--port is for --serve", "leave it out")
    if serve:
        _serve(profile, plan, port or 8000)
        return
    if SERVED not in os.environ and not (sys.stdin.isatty() and sys.stdout.isatty()):
        again = f"fp8scope analyze {shlex.quote(str(profile))}"
        raise BadInput("browse needs a terminal", f"{again} prints what is found")
    if not _shows("█▸≈"):
        what = f"browse needs a terminal in UTF-8, not {sys.stdout.encoding}"
        raise Missing(what, "set LC_ALL=C.UTF-8, or PYTHONUTF8=1")
    from fp8scope.report.opening import open_snapshot
    from fp8scope.tui.app import BrowseApp

    # looking for garbage in all that was read would stop a large model's screens for 0.3 s
    gc.set_threshold(20_000, 50, 1000)
    app = BrowseApp(lambda: open_snapshot(profile, plan), str(profile))
    interrupts.cleanup.callback(app.release_terminal)
    app.run()
    if app.refusal is not None:
        raise app.refusal


def _shows(characters: str) -> bool:
    try:
        characters.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return True


def _serve(profile: Path, plan: Path | None, port: int) -> None:
    """The same command in a web browser, each visitor with one of his own."""
    try:
        from textual_serve.server import Server
    except ImportError:
        what = "--serve needs textual-serve, which is not installed"
        raise Missing(what, "pip install 'fp8scope[serve]'") from None
    from fp8scope.report.opening import open_snapshot

    # what it would refuse is refused here, not in the browser
    open_snapshot(profile, plan)
    words = [sys.executable, "-m", "fp8scope", "browse", str(profile.absolute())]
    if plan is not None:
        words += ["--plan", str(plan.absolute())]
    try:
        Server(shlex.join(words), port=port, title=f"fp8scope: {profile.name}").serve()
    except OSError as error:
        raise BadInput(f"cannot listen on port {port}: {error.strerror}", "try --port") from error
