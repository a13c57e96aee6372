"""How large is the report of a 70B model, how long does it take, and is it quick in a browser?

    python -m tests.bench.report [PROFILE]

Without a profile, one of 80 blocks with the shapes of Llama-3-70B is invented (`plan_speed`).
Processor seconds of each step, bytes of the file, and, where there is a Chromium, milliseconds
until the first paint, until the page can be used, and until all figures are drawn in turn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fp8scope.artefacts.plan_file import write_plan
from fp8scope.plan.make import make_plan
from fp8scope.profile.reader import open_profile
from fp8scope.profile.writer import write_profile
from fp8scope.report.document.html import html
from fp8scope.report.document.markdown import markdown
from fp8scope.report.opening import open_snapshot
from fp8scope.report.pages.profile import profile_report
from fp8scope.report.snapshot import filled
from tests.bench import plan_speed
from tests.report.browser import browser, chromium, opened


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print the processor seconds that it took."""
    start = time.process_time()
    yield
    print(f"{what}: {time.process_time() - start:.1f} s of a processor", flush=True)


def main() -> None:
    """Print it all."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("profile", nargs="?", type=Path)
    given = arguments.parse_args().profile
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile = given or _invented(folder / "70b.h5")
        plan = folder / "plan.json"
        with timed("the plan"):
            write_plan(*make_plan(open_profile(profile)), plan)
        with timed("the profile read and analyzed"):
            *_, snapshot = filled(open_snapshot(profile, plan))
        with timed("its sections and figures"):
            document = profile_report(snapshot)
        with timed("HTML"):
            page = html(document)
        file = folder / "report.html"
        file.write_text(page)
        print(f"HTML: {file.stat().st_size:,} bytes; Markdown: {len(markdown(document)):,} letters")
        if chromium() is None:
            print("no Chromium: not opened")
        else:
            _in_browser(file)


def _invented(path: Path) -> Path:
    write_profile(plan_speed.profile(plan_speed.structure(80)), path, compression=1)
    return path


def _in_browser(file: Path) -> None:
    with browser() as running, opened(running, file) as seen:
        paint = seen.page.evaluate("performance.getEntriesByType('paint')[0].startTime")
        usable = seen.page.evaluate(
            "performance.timing.domInteractive - performance.timing.fetchStart"
        )
        print(f"first paint after {paint:.0f} ms, usable after {usable:.0f} ms")
        start = time.monotonic()
        seen.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        seen.drawn()
        print(f"all figures drawn in turn in {1e3 * (time.monotonic() - start):.0f} ms")


if __name__ == "__main__":
    main()
