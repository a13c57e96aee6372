"""`fp8scope export`: a plan in the words of one consumer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fp8scope.cli.documents import chosen_form, claim_free, whole, write_form
from fp8scope.cli.interrupts import Interrupts
from fp8scope.cli.show import print_json, say
from fp8scope.errors import BadInput
from fp8scope.export.registry import names

if TYPE_CHECKING:
    from fp8scope.export.consumer import Document


_CONSUMERS = f"Whom it is for: {', '.join(names())}."


@click.command(name="export", short_help="A plan as an exclusion list that an engine obeys.")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--to", "consumer", metavar="CONSUMER", required=True, help=_CONSUMERS)
@click.option("--form", default="", help="Which of the consumer's forms; else by -o, or the first.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write it here.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@click.option("--json", "as_json", is_flag=True, help="All forms as JSON on stdout.")
@click.pass_obj
def command(
    interrupts: Interrupts,
    /,
    plan: Path,
    consumer: str,
    form: str,
    output: Path | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Write a plan as CONSUMER reads it: exact names, every shard, in its own name space.

    \b
    fp8scope export plan.json --to hf-quant-config -o hf_quant_config.json
    fp8scope export plan.json --to modelopt -o recipe.yaml
    fp8scope export plan.json --to list

    What CONSUMER cannot express is refused, with the nearest that it can.
    """
    from fp8scope.artefacts.plan_file import read_plan
    from fp8scope.export.checking import export_plan

    read = read_plan(plan)
    if output is not None:
        if output.exists() and output.samefile(plan):
            raise BadInput(f"{output} is the plan to export", "give another -o")
        claim_free(output, interrupts, force=force)
    document = export_plan(read, consumer)
    chosen = chosen_form(document, form, output)
    if output is not None:
        write_form(chosen, output)
    if as_json:
        from fp8scope.export.registry import consumer as known
        from fp8scope.report.proof import document_json

        found = known(consumer)
        named = {"consumer": found.name, "about": found.about}
        print_json({**named, **document_json(document)})
    elif output is None:
        sys.stdout.write(whole(chosen))
    _explain(document, smooths=bool(read.folds))


def _explain(document: Document, *, smooths: bool) -> None:
    from fp8scope.export.consumer import SAYS

    say(f"This is {SAYS[document.kind]}.")
    if smooths:
        say("The plan smooths: it holds for weights into which plan.npz is folded, which fp8scope")
        say("build does; without smoothing: fp8scope plan --candidates fp8_tensor,fp8_token")
    for line in document.use:
        say(f"  {line}")
