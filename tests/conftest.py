"""Tests run in as many processes as there are cores, up to four: a thread for each is enough.

Each imports nearly all there is, a million objects that live to its end. Python's collector would
go through them again and again, for a fifth of the tests' time: it begins after them, and comes
less often than by default.
"""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import WITHOUT

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
gc.disable()

LONG = {
    "analyze/test_cause_planted.py",
    "build/test_demo.py",
    "build/test_round_trip.py",
    "cli/test_interrupts.py",
    "cli/test_killed.py",
    "cli/test_verify_end_to_end.py",
    "demo/test_demo.py",
    "docs/test_commands_page.py",
    "docs/test_howto_pages.py",
    "docs/test_reference_pages.py",
    "docs/test_top_pages.py",
    "plan/test_demo_plan.py",
    "report/pages/test_size.py",
    "verify/test_gpu_models.py",
}
"""Files that take half a minute and more; a file is one process's."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no process is left alone with one at the end."""
    tests = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(tests).as_posix() not in LONG)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def temporary_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Those of `tempfile` are in pytest's own, here and in child processes: it clears up."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("tempfile"))
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Nobody should take a run without a browser for one with it."""
    skipped = terminalreporter.stats.get("skipped", [])
    if any(WITHOUT in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(f"ATTENTION: {WITHOUT}", yellow=True, bold=True)
