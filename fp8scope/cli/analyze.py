"""`fp8scope analyze`: what a profile says about its sites."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fp8scope.cli.show import console, print_json, say
from fp8scope.errors import BadInput

if TYPE_CHECKING:
    from fp8scope.analyze.measures import SiteMeasures
    from fp8scope.profile.record import Profile


@click.command(name="analyze", short_help="Show a profile's sites, worst first.")
@click.argument("profile", type=click.Path(path_type=Path))
@click.option("--layer", metavar="NAME", help="Everything about one module.")
@click.option("--rows", default=20, show_default=True, help="Sites in the table.")
@click.option("--json", "as_json", is_flag=True, help="All sites as JSON on stdout.")
def command(profile: Path, layer: str | None, rows: int, as_json: bool) -> None:
    """Show what E4M3 per tensor does to every site of a profile, worst body first.

    \b
    fp8scope analyze profile.h5
    fp8scope analyze profile.h5 --layer model.layers.3.mlp.down_proj
    """
    from fp8scope.analyze.measures import measure_sites
    from fp8scope.profile.reader import open_profile
    from fp8scope.report.rows import profile_summary, site_row
    from fp8scope.report.text import worst_sites

    opened = open_profile(profile)
    measured = measure_sites(opened)
    if layer is not None:
        _one_layer(opened, measured, layer, as_json)
    elif as_json:
        print_json({**profile_summary(opened), "rows": [site_row(row) for row in measured]})
    else:
        console().print(worst_sites(measured, rows))
        for note in opened.notes:
            say(f"note: {note}")


def _one_layer(profile: Profile, measured: list[SiteMeasures], layer: str, as_json: bool) -> None:
    from fp8scope.report.rows import site_row, top_rows
    from fp8scope.report.text import largest_values, values

    mine = [row for row in measured if layer in row.shared_by]
    if not mine:
        names = sorted({name for row in measured for name in row.shared_by})
        near = [name for name in names if layer in name][:3] or names[:3]
        raise BadInput(
            f"the profile has no module {layer}", f"it has, for example, {', '.join(near)}"
        )
    if as_json:
        print_json([{**site_row(row), "top": top_rows(profile, row.site)} for row in mine])
        return
    for row in mine:
        fields = site_row(row)
        del fields["worst_token"]
        console().print(values(fields, str(row.site)))
        top = top_rows(profile, row.site)
        if top:
            console().print(largest_values(top, 10))
