"""`fp8scope compare`: what changed between two profiles, and a gate for a scheduled job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fp8scope.cli.documented import claim_output, document_options, wanted, write_document
from fp8scope.cli.interrupts import Interrupts
from fp8scope.cli.options import Number
from fp8scope.cli.show import console, print_json
from fp8scope.errors import BadInput, GateFailed

if TYPE_CHECKING:
    from fp8scope.analyze.compare import Comparison


@click.command(name="compare", short_help="Show what changed between two profiles.")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--fail-above",
    type=Number(0, 1),
    metavar="SHARE",
    help="Exit 1 if, at any site, A's static scale clips more than this share (0 to 1) of B's "
    "sequences, of all or of one tag, by more than 20%; at 95% confidence.",
)
@click.option(
    "--rows", type=click.IntRange(min=1), default=10, show_default=True, help="Sites in the table."
)
@document_options("Write a report as well, HTML, Markdown or a PNG by the suffix.")
@click.option("--json", "as_json", is_flag=True, help="Everything that changed, as JSON.")
@click.pass_obj
def command(  # noqa: PLR0913  (one per option)
    interrupts: Interrupts,
    /,
    *,
    a: Path,
    b: Path,
    fail_above: float | None,
    rows: int,
    output: Path | None,
    form: str | None,
    figure: str | None,
    dark: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Show what changed from A to B, and whether A's static scales would hold on B.

    A and B are calibration and production, two texts, or a model and its fine-tune. The gate
    looks at sequences, not at values: a massive activation is one value in thousands, and clipping
    it may ruin the whole answer. Random halves of one text stayed under 0.02, from 32 sequences a
    tag on.

    \b
    fp8scope compare calibration.h5 production.h5 -o drift.html
    fp8scope compare calibration.h5 today.h5 --fail-above 0.05 --json > drift.json
    fp8scope compare calibration.h5 today.h5 --format md >> "$GITHUB_STEP_SUMMARY"
    """
    from fp8scope.analyze.compare import compare_profiles
    from fp8scope.profile.reader import open_profile
    from fp8scope.report.compare import gate_sentence

    asked = None
    if output or form or figure or dark:
        asked = wanted(output, form, figure, dark=dark)
        if asked.output is None and asked.form == "html":
            raise BadInput("where should the report go?", "give -o drift.html")
        if asked.output is None and as_json:
            raise BadInput("two things on stdout", "give -o, or leave --json out")
    profiles = open_profile(a), open_profile(b)
    if a.samefile(b):
        raise BadInput(f"{a} and {b} are one file", "give two profiles")
    if asked is not None:
        claim_output(asked, (a, b), interrupts, force=force)
    found = compare_profiles(*profiles)
    if asked is not None:
        from fp8scope.report.pages.comparison import comparison_report

        document = comparison_report(found, *profiles, limit=fail_above, names=(a.name, b.name))
        write_document(document, asked)
    if as_json:
        from fp8scope.report.compare import comparison_row

        print_json({"a": str(a), "b": str(b), "fail_above": fail_above, **comparison_row(found)})
    elif asked is None or asked.output is not None:
        _print(found, rows)
    failed = None if fail_above is None else gate_sentence(found, fail_above)
    if failed:
        raise GateFailed(failed, "calibrate with text like B, or use dynamic scales")


def _print(found: Comparison, rows: int) -> None:
    from fp8scope.report.compare import comparison_sentences
    from fp8scope.report.compare_table import comparison_table

    out = console()
    for sentence in comparison_sentences(found):
        out.print(sentence, markup=False)
    out.print()
    out.print(comparison_table(found, rows, out.width))
