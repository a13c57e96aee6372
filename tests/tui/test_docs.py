"""docs/browse.md names every key of every screen, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from textual.binding import Binding

from fp8scope.tui.app import BrowseApp
from fp8scope.tui.layer import LayerScreen
from fp8scope.tui.overview import OverviewScreen
from fp8scope.tui.plan_screen import PlanScreen
from fp8scope.tui.sites import SitesScreen

PAGE = Path(__file__).parents[2] / "docs" / "browse.md"
SPELT = {"slash": "/", "question_mark": "?", "escape": "esc"}
SECTIONS: dict[str, Any] = {
    "On every screen": BrowseApp, "Overview": OverviewScreen, "Sites": SitesScreen,
    "A layer": LayerScreen, "The plan": PlanScreen,
}  # fmt: skip


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_is_documented(title: str) -> None:
    section = PAGE.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(.+?)` \| (.+?) \|$", section, flags=re.M))
    keys = {}
    for binding in SECTIONS[title].BINDINGS:
        assert isinstance(binding, Binding)
        keys[SPELT.get(binding.key, binding.key)] = binding.description
    assert rows == keys
