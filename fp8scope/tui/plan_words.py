"""The numbers of the living plan as its screen writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from textual.content import Content

from fp8scope.artefacts.plan import Nats, Objective, Point, Predicted
from fp8scope.core.words import nats, number, percent, printable, times
from fp8scope.plan.prediction import limited, over
from fp8scope.report.colours import PRECISIONS
from fp8scope.report.plan import frontier_points
from fp8scope.tui.plan_rows import CACHE, Row, candidates_shown
from fp8scope.tui.plan_table import Column, Tone

FIXED = 2
BAR = 20
EIGHTHS = " ▏▎▍▌▋▊▉"


def headline(found: Predicted, asked: Objective, *, cached: bool) -> Content:
    """KL against the budget, bits, BF16, time; then the tags."""
    spent = limited(found, asked)
    share = spent / asked.value if asked.value > 0 else (math.inf if spent > 0 else 0.0)
    broken = over(found, asked)
    colour = "$warning" if broken else "$primary"
    told = f" {_share(share)} of {_budget(asked)}{', over' if broken else ''}"
    faster, behind = (
        f"{times(us / found.step_time_us)}× {name}"
        for us, name in (
            (found.bf16_step_time_us, "as fast as BF16"),
            (found.fp8_step_time_us, "FP8"),
        )
    )
    numbers = (
        f"\n{found.effective_bits:.2f} bits  BF16 {percent(found.bf16_share)}  "
        f"KV {'FP8' if cached else 'BF16'}  step {number(found.step_time_us)} µs, "
        f"{faster}, {behind}"
    )
    tags = "   ".join(f"{printable(tag)} {_with_error(own)}" for tag, own in _worst(found.tags))
    return Content.assemble(
        (f"KL {_with_error(found.nats)}", "bold"),
        "  ",
        (bar(share), colour),
        (told, f"bold {colour}" if broken else ""),
        numbers,
        f"\n{tags}" if len(found.tags) > 1 else "",
    )


def bar(share: float, width: int = BAR) -> str:
    """A bar in eighths of a cell, full from 100% on."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    whole, rest = divmod(eighths, 8)
    drawn = "█" * whole + (EIGHTHS[rest] if rest else "")
    return "▕" + drawn.ljust(width) + "▏"


def columns(rows: Sequence[Row]) -> list[Column]:
    """Wide enough for all rows."""
    names = max((len(row.short) for row in rows), default=0)
    return [
        Column("", 1, "left"),
        Column("fused group", min(max(names, 11), 34), "left"),
        Column("runs in", 9, "left"),
        Column("KL", 7),
        *(Column(PRECISIONS[name][1], 7) for name in candidates_shown(rows)),
        Column("µs FP8", 8),
        Column("µs BF16", 8),
        Column("why", 60, "left"),
    ]


def cells(shown: Sequence[str], row: Row) -> list[tuple[str, Tone]]:
    """Of one row; `shown` are the candidates that there are columns of."""
    letter, word = PRECISIONS[row.precision]
    known = [
        (_nats(row.candidates.get(name)), "bold" if name == row.precision else "dim")
        for name in shown
    ]
    own = "–" if row.precision == "bf16" else _nats(row.kl)
    return [
        ("•" if row.pinned else " ", "bold"),
        (row.short, "bold" if row.name == CACHE else ""),
        (f" {letter} {word}", row.precision),
        (own, "bold"),
        *known,
        (number(row.fp8_us), ""),
        (number(row.bf16_us), ""),
        (row.reason, "dim"),
    ]


def about(row: Row) -> str:
    """The row under the cursor in words."""
    cost = "" if row.precision == "bf16" else f", {nats(row.kl)} nats per token alone"
    pinned = ", pinned" if row.pinned else ""
    why = f": {row.reason}" if row.reason else ""
    return f"{row.short} {row.words}{cost}{pinned}; FP8 saves {row.saved_us:.3g} µs{why}"


def frontier(points: Sequence[Point], own: Point) -> Content:
    """What other budgets would buy, and where the plan stands among them."""
    lines: list[str | Content | tuple[str, str]] = [
        ("What other budgets would buy\n", "bold"),
        (f"{'nats':>8} {'bits':>6} {'step, µs':>9} {'BF16':>5}\n", "dim"),
    ]
    for point, mine in frontier_points(points, own):
        text = f"{nats(point.kl):>8} {point.effective_bits:>6.2f} {number(point.step_time_us):>9}"
        line = f"{text} {point.bf16_groups:>5}{' ◂ now' if mine else ''}\n"
        lines.append((line, "bold") if mine else line)
    return Content.assemble(*lines)


def _nats(value: float | None) -> str:
    if value is None:
        return "·"
    return "∞" if math.isinf(value) else nats(value)


def _with_error(found: Nats) -> str:
    return f"{nats(found.kl)} ± {percent(found.error / found.kl)}" if found.kl > 0 else "0"


def _budget(asked: Objective) -> str:
    """`0.0062 (balanced)`, `8.5 bits`, `10% in BF16`."""
    said = {
        "max_kl": nats(asked.value),
        "effective_bits": f"{asked.value:g} bits",
        "max_bf16_share": f"{percent(asked.value)} in BF16",
    }[asked.limit]
    return f"{said} ({asked.preset})" if asked.preset else said


def _share(share: float) -> str:
    return f"{100 * share:.0f}%" if share < 100 else ">9999%"


def _worst(tags: dict[str, Nats]) -> list[tuple[str, Nats]]:
    return sorted(tags.items(), key=lambda item: -item[1].kl)
