"""The commands of docs/reference, run (tests/docs/pages.py says how)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import pages, session

PAGES = [page for page in pages.markdown("reference") if page.name != "commands.md"]


# The examples of commands.md want a folder for each verb: test_commands_page.py.
@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_it_is_as_shown(
    page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    session.run(page, tmp_path, tmp_path_factory)
