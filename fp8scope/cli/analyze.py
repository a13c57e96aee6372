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


@click.command(name="analyze", short_help="Show a profile's sites, worst first.")
@click.argument("profile", type=click.Path(path_type=Path))
@click.option("--layer", metavar="NAME", help="Everything about one module.")
@click.option(
    "--rows", type=click.IntRange(min=1), default=20, show_default=True, help="Sites in the table."
)
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default=SORTS[0],
    show_default=True,
    help="What puts a site first; severity looks at all of them, less what is noise.",
)
@click.option(
    "--role",
    "roles",
    type=click.Choice(ROLES),
    multiple=True,
    help="Only sites of this role; repeatable.  [default: input, weight, k, v]",
)
@click.option("--notes", is_flag=True, help="Show the notes that the scan made, on stderr.")
@click.option("--json", "as_json", is_flag=True, help="All sites, or the module, as JSON.")
def command(
    profile: Path,
    layer: str | None,
    rows: int,
    sort: str,
    roles: tuple[str, ...],
    notes: bool,
    as_json: bool,
) -> None:
    """Show what E4M3 with one static scale per tensor does to every site of a profile.

    \b
    fp8scope analyze profile.h5
    fp8scope analyze profile.h5 --sort headroom --role input
    fp8scope analyze profile.h5 --layer model.layers.3.mlp.down_proj
    """
    from fp8scope.profile.reader import open_profile

    opened = open_profile(profile)
    if layer is not None:
        _one_layer(opened, layer, as_json)
    else:
        _all_sites(opened, rows, sort, roles, as_json)
    if notes:
        for note in opened.notes:
            say(f"note: {note}")


def _all_sites(
    profile: Profile, count: int, sort: str, roles: tuple[str, ...], as_json: bool
) -> None:
    from fp8scope.analyze.coverage import expert_coverage
    from fp8scope.analyze.measures import measure_sites
    from fp8scope.analyze.thresholds import CAST_ROLES
    from fp8scope.analyze.verdict import in_order, judge
    from fp8scope.core.sites import Role
    from fp8scope.report.experts import coverage_row, coverage_table
    from fp8scope.report.rows import profile_summary, site_row, verdict_row
    from fp8scope.report.text import worst_sites

    measured, experts = measure_sites(profile), expert_coverage(profile)
    wanted = tuple(map(Role, roles))
    if as_json:
        rows = [site_row(row) for row in in_order(measured, sort, wanted or tuple(Role))]
        verdict = verdict_row(judge(measured))
        coverage = {"experts": [coverage_row(row) for row in experts]} if experts else {}
        print_json({**profile_summary(profile), "verdict": verdict, **coverage, "rows": rows})
        return
    out = console()
    out.print(worst_sites(measured, count, by=sort, roles=wanted or CAST_ROLES))
    if experts:
        out.print()
        out.print(coverage_table(experts, count))


def _one_layer(profile: Profile, name: str, as_json: bool) -> None:
    from fp8scope.analyze.detail import module_detail
    from fp8scope.analyze.names import find_module
    from fp8scope.report.layer import site_tables
    from fp8scope.report.rows import detail_row

    module = find_module(profile, name)
    details = module_detail(profile, module)
    if as_json:
        print_json({"module": module, "sites": [detail_row(detail) for detail in details]})
        return
    out = console()
    for detail in details:
        for table in site_tables(detail):
            out.print(table)
            out.print()
