"""Tests run in as many processes as there are cores, up to four: a thread for each is enough."""

import os

import pytest

from tests.report.browser import WITHOUT

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Nobody should take a run without a browser for one with it."""
    skipped = terminalreporter.stats.get("skipped", [])
    if any(WITHOUT in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(f"ATTENTION: {WITHOUT}", yellow=True, bold=True)
