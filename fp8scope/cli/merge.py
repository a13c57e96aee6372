"""`fp8scope merge`: profiles of one model → one profile."""

from __future__ import annotations

from pathlib import Path

import click

from fp8scope.cli.interrupts import Interrupts
from fp8scope.cli.output import check_free, claim
from fp8scope.cli.show import next_step, print_json, say, wrote
from fp8scope.errors import BadInput


@click.command(name="merge", short_help="Merge profiles of one model.")
@click.argument("profiles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite -o.")
@click.option("--json", "as_json", is_flag=True, help="The merged profile's summary as JSON.")
@click.pass_obj
def command(
    interrupts: Interrupts,
    /,
    profiles: tuple[Path, ...],
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Merge profiles of one model over different text: counts, amax and top lists exactly.

    \b
    fp8scope merge monday.h5 tuesday.h5 -o week.h5
    """
    from fp8scope.profile.merge import merge_profiles
    from fp8scope.profile.reader import read_profile
    from fp8scope.profile.writer import write_profile
    from fp8scope.report.rows import profile_summary

    interrupts.cleanup.enter_context(claim(output))
    for path in profiles:
        if output.exists() and path.exists() and output.samefile(path):
            raise BadInput(f"{output} is one of the profiles to merge", "give another -o")
    check_free(output, force)
    merged = merge_profiles([read_profile(path) for path in profiles])
    write_profile(merged, output)
    for note in merged.notes:
        say(f"note: {note}")
    if as_json:
        print_json({"profile": str(output), **profile_summary(merged)})
    what = f"{len(merged.samples['index'])} sequences, tags {', '.join(merged.tags)}"
    say(f"{wrote(output)}: {what}; {next_step(output)}")
