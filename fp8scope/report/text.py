"""Tables for a person in a terminal. Text from models and prompts is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fp8scope.analyze.measures import SiteMeasures, WorstToken


def worst_sites(rows: Sequence[SiteMeasures], count: int) -> Table:
    """The first `count` rows. Body SQNR, underflow and amax/rms are of E4M3 per tensor."""
    table = Table(title=f"{min(count, len(rows))} worst of {len(rows)} sites, E4M3 per tensor")
    table.add_column("site", overflow="fold", ratio=3)
    for name in ("body SQNR", "underflow", "amax/rms", "headroom"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("largest value, and where", overflow="fold", ratio=3)
    for row in rows[:count]:
        table.add_row(
            Text(_name(row)),
            f"{row.error.body_sqnr_db:.1f} dB",
            percent(row.error.underflow_rate),
            f"{row.outlier_ratio:.3g}",
            "" if row.headroom is None else f"{row.headroom:.2f}× {escape(row.headroom_tag)}",
            _where(row.worst) if row.worst else Text(f"{row.amax:.4g}"),
        )
    return table


def values(fields: dict[str, Any], title: str) -> Table:
    """Two columns, name and value."""
    table = Table(title=escape(title), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        table.add_row(name, Text(shown))
    return table


def largest_values(rows: Sequence[dict[str, Any]], count: int) -> Table:
    """Top values with channel, position and the text around the token."""
    table = Table(title=f"{min(count, len(rows))} largest values")
    for name in ("value", "channel", "tag", "sample", "position"):
        table.add_column(name, justify="right")
    table.add_column("text", overflow="fold", ratio=1)
    for row in rows[:count]:
        table.add_row(
            f"{row['value']:.5g}",
            str(row["channel"]),
            Text(row["tag"]),
            str(row["sample"]),
            str(row["position"]),
            Text.assemble(row["before"], (row["token"], "reverse"), row["after"]),
        )
    return table


def percent(rate: float) -> str:
    """A rate in [0, 1] as per cent, with enough digits to see that it is not zero."""
    if rate == 0:
        return "0"
    return f"{100 * rate:.2g}%" if rate < 0.1 else f"{100 * rate:.0f}%"


def _name(row: SiteMeasures) -> str:
    more = len(row.shared_by) - 1
    return f"{row.site}" + (f" (+{more} sharing it)" if more else "")


def _where(worst: WorstToken) -> Text:
    return Text.assemble(
        f"{worst.value:.4g} channel {worst.channel}, {worst.tag} token {worst.position}: ",
        worst.before[-20:],
        (worst.token, "reverse"),
        worst.after[:12],
    )
