"""The commands of docs/how-to, run (tests/docs/pages.py says how)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import pages, session


@pytest.mark.parametrize("page", pages.markdown("how-to"), ids=pages.name)
def test_it_is_as_shown(
    page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    session.run(page, tmp_path, tmp_path_factory)
