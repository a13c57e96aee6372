"""The report on the demo with a plan, as Markdown, word by word.

After a wanted change: UPDATE_GOLDEN=1 pytest tests/report/pages/test_golden.py, and read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

from fp8scope import __version__
from fp8scope.report.document.markdown import markdown
from tests.report.pages.subjects import report

GOLDEN = Path(__file__).parent / "golden" / "demo.md"


def test_the_report_on_the_demo() -> None:
    said = markdown(report("demo, planned")).replace(f"fp8scope {__version__}", "fp8scope VERSION")
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(said)
    assert said == GOLDEN.read_text(), "look at what differs, then UPDATE_GOLDEN=1"
