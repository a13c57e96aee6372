"""The pictures of the report in README and docs: `python -m tests.report.pictures`.

The report is that of profiles/demo.h5 and its plan; Chromium draws it (see `browser`). Look at them
before you commit them.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fp8scope
from tests.report.browser import browser, opened

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs/images"
LAYER = "#model.layers.0.mlp.down_proj"


def main() -> None:
    """Write them all."""
    with TemporaryDirectory() as folder, browser() as running:
        page = _report(Path(folder))
        with opened(running, page) as seen:
            _save(seen, "report-verdict")
        with opened(running, page, color_scheme="dark") as seen:
            seen.page.get_by_role("heading", name="Overview").scroll_into_view_if_needed()
            _save(seen, "report-overview", clip=_around(seen, "#figure-heatmap"))
        with opened(running, page, LAYER) as seen:
            _save(seen, "report-layer", clip=_around(seen, f"[id='{LAYER[1:]}']", most=1100))
        with opened(running, page, viewport={"width": 390, "height": 844}) as seen:
            _save(seen, "report-phone")


def _report(folder: Path) -> Path:
    source = ROOT / "profiles/demo.h5"
    profile = fp8scope.open_profile(source)
    plan, factors = fp8scope.make_plan(profile, fp8scope.PlanSettings())
    fp8scope.write_plan(plan, factors, folder / "plan.json")
    page = folder / "report.html"
    page.write_text(fp8scope.make_report(source, folder / "plan.json"))
    return page


def _around(seen: Any, selector: str, most: int = 900) -> dict[str, float]:
    """The place of an element, with its figures drawn, and a margin."""
    seen.drawn(f"{selector} .plot")
    seen.page.wait_for_timeout(500)
    box = seen.page.query_selector(selector).bounding_box()
    top = seen.page.evaluate("scrollY")
    return {
        "x": max(0, box["x"] - 12),
        "y": max(0, box["y"] + top - 12),
        "width": box["width"] + 24,
        "height": min(most, box["height"] + 24),
    }


def _save(seen: Any, name: str, clip: dict[str, float] | None = None) -> None:
    seen.page.wait_for_timeout(500)
    path = IMAGES / f"{name}.png"
    seen.page.screenshot(path=path, clip=clip, full_page=clip is not None)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
