"""`fp8scope analyze`: what a profile says about its sites."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fp8scope.cli.show import console, print_json, say

if TYPE_CHECKING:
    from fp8scope.profile.record import Profile

SORTS = ("severity", "body-sqnr", "underflow", "outlier", "headroom")
ROLES = ("input", "weight", "k", "v", "residual", "output")


@click.command(name="analyze", short_help="Say where FP8 hurts, why, and what helps.")
@click.argument("profile", type=click.Path(path_type=Path))
@click.option("--layer", metavar="NAME", help="Everything about one module.")
@click.option("--sites", is_flag=True, help="A table of all sites in place of the findings.")
@click.option("--rows", type=click.IntRange(min=1), help="Rows of that table.  [default: 20]")
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    help="--sites by this; severity looks at all of them, less what is noise.  "
    f"[default: {SORTS[0]}]",
)
@click.option(
    "--role",
    "roles",
    type=click.Choice(ROLES),
    multiple=True,
    help="--sites of this role; repeatable.  [default: input, weight, k, v]",
)
@click.option("--notes", is_flag=True, help="Show the notes that the scan made, on stderr.")
@click.option("--json", "as_json", is_flag=True, help="The findings, sites or module as JSON.")
def command(  # noqa: PLR0913, PLR0917  (one per option)
    profile: Path,
    layer: str | None,
    sites: bool,
    rows: int | None,
    sort: str | None,
    roles: tuple[str, ...],
    notes: bool,
    as_json: bool,
) -> None:
    """Say where FP8 hurts, why, and what helps: the findings of a profile, the worst first.

    \b
    fp8scope analyze profile.h5
    fp8scope analyze profile.h5 --sites --sort headroom --role input
    fp8scope analyze profile.h5 --layer model.layers.3.mlp.down_proj
    """
    from fp8scope.profile.reader import open_profile

    opened = open_profile(profile)
    if layer is not None:
        _one_layer(opened, layer, as_json)
    elif sites or roles or sort or rows:
        _all_sites(opened, rows or 20, sort or SORTS[0], roles, as_json)
    else:
        _findings(opened, as_json)
    if notes:
        for note in opened.notes:
            say(f"note: {note}")


def _all_sites(
    profile: Profile, count: int, sort: str, roles: tuple[str, ...], as_json: bool
) -> None:
    from fp8scope.analyze.measures import measure_sites
    from fp8scope.analyze.thresholds import CAST_ROLES
    from fp8scope.analyze.verdict import in_order
    from fp8scope.core.sites import Role
    from fp8scope.report.rows import site_row
    from fp8scope.report.text import worst_sites

    measured, wanted = measure_sites(profile), tuple(map(Role, roles))
    if as_json:
        rows = in_order(measured, sort, wanted or tuple(Role))
        print_json({"rows": [site_row(row) for row in rows]})
        return
    console().print(worst_sites(measured, count, by=sort, roles=wanted or CAST_ROLES))


def _findings(profile: Profile, as_json: bool) -> None:
    from fp8scope.analyze.analysis import analyze_profile
    from fp8scope.report.analysis import analysis_page, analysis_row

    found = analyze_profile(profile)
    if as_json:
        print_json(analysis_row(found))
    else:
        console().print(analysis_page(found))


def _one_layer(profile: Profile, name: str, as_json: bool) -> None:
    from fp8scope.analyze.layer import layer_findings
    from fp8scope.analyze.names import find_module
    from fp8scope.report.findings import finding_rows, finding_tables
    from fp8scope.report.layer import site_tables
    from fp8scope.report.rows import detail_row

    found = layer_findings(profile, find_module(profile, name))
    if as_json:
        sites = [detail_row(detail) for detail in found.details]
        print_json({"module": found.module, **finding_rows(found), "sites": sites})
        return
    out = console()
    for renderable in finding_tables(found):
        out.print(renderable)
        out.print()
    for detail in found.details:
        for table in site_tables(detail):
            out.print(table)
            out.print()
