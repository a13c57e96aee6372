"""`fp8scope report`: a profile, a plan and a verdict of it, as one file to read, send and print."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fp8scope.cli.documented import claim_output, document_options, wanted, write_document
from fp8scope.cli.interrupts import Interrupts
from fp8scope.cli.show import console, print_json
from fp8scope.errors import BadInput

if TYPE_CHECKING:
    from fp8scope.report.snapshot import Snapshot

OUTPUT = Path("report.html")


@click.command(name="report", short_help="Write it all into one file: HTML, Markdown or PNG.")
@click.argument("profile", type=click.Path(path_type=Path))
@click.option("--plan", metavar="PLAN", type=click.Path(path_type=Path), help="A plan of it.")
@click.option(
    "--verdict",
    metavar="VERDICT",
    type=click.Path(path_type=Path),
    help="A verdict.json of verify: what a build of it really ran in.",
)
@click.option(
    "--layers",
    metavar="N",
    type=click.IntRange(min=0),
    default=12,
    show_default=True,
    help="How many layers are shown in full, with their figures; the worst ones.",
)
@document_options(f"Where it goes.  [default: {OUTPUT}]")
@click.option("--json", "as_json", is_flag=True, help="Say what was written as JSON on stdout.")
@click.pass_obj
def command(  # noqa: PLR0913  (one per option)
    interrupts: Interrupts,
    /,
    *,
    profile: Path,
    plan: Path | None,
    verdict: Path | None,
    layers: int,
    output: Path | None,
    form: str | None,
    figure: str | None,
    dark: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write what a profile says, and what a plan makes of it, into one file that needs no network:
    the verdict, a heatmap, the worst layers in full, the plan with its reasons, configs to copy.

    \b
    fp8scope report profile.h5 --plan plan.json -o report.html
    fp8scope report profile.h5 --plan plan.json --verdict verdict.json -o verified.html
    fp8scope report profile.h5 --plan plan.json --format md | gh pr comment 7 --body-file -
    fp8scope report profile.h5 --figure heatmap:3 -o heatmap.png
    """
    from fp8scope.report.opening import open_snapshot
    from fp8scope.report.pages.profile import profile_report

    asked = wanted(output, form, figure, dark=dark)
    if asked.output is None and asked.form == "html":
        asked = replace(asked, output=OUTPUT)
    if as_json and asked.output is None:
        raise BadInput("the report itself goes to stdout", "give -o, or leave --json out")
    snapshot = open_snapshot(profile, plan, verdict)
    read = [path for path in (profile, plan, verdict) if path is not None]
    claim_output(asked, read, interrupts, force=force)
    said = write_document(profile_report(_filled(snapshot), layers=layers), asked)
    if as_json:
        given = {"plan": plan, "verdict": verdict}
        names = {key: str(path) if path else None for key, path in given.items()}
        print_json({"profile": str(profile), **names, **said})


def _filled(snapshot: Snapshot) -> Snapshot:
    """All that is known; half a minute of a large model, with what it is at on a terminal."""
    from fp8scope.report.snapshot import filled

    out = console(stderr=True)
    if not sys.stderr.isatty():
        return [*filled(snapshot)][-1]
    with out.status("reading …") as status:
        for found in filled(snapshot):
            snapshot = found
            status.update(snapshot.unread)
    return snapshot
