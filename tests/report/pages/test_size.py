"""The report on a large model stays small enough to be sent around."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8scope.report.document.anchors import repeated
from fp8scope.report.document.html import html
from fp8scope.report.document.markdown import markdown
from fp8scope.report.pages.profile import profile_report
from tests.tui.browsing import all_of_llama, planned

MOST = 6_000_000  # bytes, of which plotly.js is 4.8 million
OF_A_COMMENT = 65_536  # GitHub's limit, in characters


@pytest.mark.slow
def test_80_blocks_with_a_plan() -> None:
    known = all_of_llama(80)
    found = profile_report(replace(known, plan=planned(known.profile)))
    assert repeated(found) == []
    assert len(html(found).encode()) < MOST
    assert len(markdown(found)) <= OF_A_COMMENT
