"""How quickly the browser's plan answers a key.

    python -m tests.bench.plan_screen PROFILE

Prints ms of every kind of change, in the draft alone and with the screen painted anew at 160×50.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fp8scope.plan.draft import Draft
from fp8scope.profile.reader import open_profile
from fp8scope.report import snapshot
from fp8scope.tui.app import BrowseApp
from fp8scope.tui.plan_screen import PlanScreen

ROUNDS = 15


def timed(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return 1e3 * (time.perf_counter() - start)


def told(name: str, found: list[float]) -> None:
    print(f"{name:28} median {statistics.median(found):6.1f} ms, most {max(found):6.1f} ms")


def alone(path: Path) -> None:
    start = time.perf_counter()
    own = Draft(open_profile(path))
    print(f"a draft: {time.perf_counter() - start:.2f} s; {len(own.step.ways)} clusters")
    names = [unit.name for unit in own.step.maker.planner.decided]
    told("next precision", [timed(lambda n=n: own.next(n)) for n in names[:ROUNDS]])  # type: ignore[misc]
    told("KV cache", [timed(lambda: own.set_cache(not own.cached)) for _ in range(ROUNDS)])
    told("undo", [timed(own.steps.undo) for _ in range(ROUNDS)])
    told("solve again", [timed(lambda: own.solve("0.01")) for _ in range(3)])
    print(f"the whole plan: {timed(own.plan) / 1e3:.2f} s")


async def painted(path: Path) -> None:
    app = BrowseApp(lambda: snapshot.opened(path, open_profile(path)))
    async with app.run_test(size=(160, 50)) as pilot:
        while not app.started or app.progress:
            await pilot.pause(0.1)
        await pilot.press("3")
        while app.living is None or not app.living.reasons:
            await pilot.pause(0.1)
        screen = app.screen
        assert isinstance(screen, PlanScreen)

        def all_lines() -> None:
            for y in range(screen.rows.size.height):
                screen.rows.render_line(y)

        for name, act in (
            ("space", screen.action_next),
            ("b", lambda: screen.action_set("bf16")),
            ("v", screen.action_cache),
            ("u", screen.action_undo),
            ("o", screen.action_order),
            ("down", lambda: screen.rows.action_move(1)),
        ):
            found = []
            for _ in range(ROUNDS):
                found.append(timed(act) + timed(all_lines))
                await pilot.pause(0.01)
            told(f"key {name}, painted", found)


if __name__ == "__main__":
    alone(Path(sys.argv[1]))
    asyncio.run(painted(Path(sys.argv[1])))
