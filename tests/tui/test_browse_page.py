"""docs/reference/browse.md names every key that there is.

After a wanted change: UPDATE_GOLDEN=1 pytest tests/tui/test_browse_page.py, and read the diff.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from textual.binding import Binding
from textual.dom import DOMNode

from fp8scope.tui.app import BrowseApp
from fp8scope.tui.heat import Heat
from fp8scope.tui.layer import LayerScreen
from fp8scope.tui.overview import OverviewScreen
from fp8scope.tui.plan_screen import PlanScreen
from fp8scope.tui.plan_table import PlanTable
from fp8scope.tui.site_table import SiteTable
from fp8scope.tui.sites import SitesScreen
from tests.tui.browsing import all_of_demo

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "browse.md"
CLASSES: Mapping[str, tuple[type[DOMNode], ...]] = {
    "everywhere": (BrowseApp,),
    "overview": (OverviewScreen, Heat),
    "sites": (SitesScreen, SiteTable),
    "layer": (LayerScreen,),
    "plan": (PlanScreen, PlanTable),
}
PALETTE = Binding("ctrl+p", "command_palette", "find a command by its words")


def table(classes: tuple[type[DOMNode], ...]) -> str:
    """Keys and what they do, in the order of the code; one line for each thing."""
    app = BrowseApp(all_of_demo)  # is not run
    bindings = [one for of in classes for one in of.__dict__["BINDINGS"]]
    keys: dict[str, list[str]] = {}
    for one in [*bindings, *([PALETTE] if BrowseApp in classes else [])]:
        assert isinstance(one, Binding)
        assert one.description, one
        for key in one.key.split(","):
            single = Binding(key, one.action, key_display=one.key_display)
            keys.setdefault(one.description, []).append(f"`{app.get_key_display(single)}`")
    lines = [f"| {' '.join(shown)} | {words} |\n" for words, shown in keys.items()]
    return "| key | |\n|---|---|\n" + "".join(lines)


def test_every_key_is_on_the_page() -> None:
    page = PAGE.read_text()
    for name, classes in CLASSES.items():
        mark = f"<!-- keys: {name} -->\n"
        assert page.count(mark) == 1
        wanted = mark + table(classes)
        if os.environ.get("UPDATE_GOLDEN"):
            page = re.sub(re.escape(mark) + r"(\|.*\n)*", wanted.replace("\\", r"\\"), page)
            PAGE.write_text(page)
        assert wanted in page
