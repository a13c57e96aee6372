"""`fp8scope check`: what a consumer will really do with a plan, a checkpoint or a config."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fp8scope.cli.documents import chosen_form, claim_free, write_form
from fp8scope.cli.interrupts import Interrupts
from fp8scope.cli.show import console, print_json, say
from fp8scope.cli.subject import DEMO
from fp8scope.errors import GateFailed
from fp8scope.export.registry import names

_CONSUMERS = f"Who is to read it, of {', '.join(names())}; not all read."

if TYPE_CHECKING:
    from fp8scope.export.checking import Checked


@dataclass(frozen=True)
class _Arguments:
    subject: Path
    consumer: str
    version: str | None
    model: str | None
    form: str
    output: Path | None
    whole: bool
    force: bool
    as_json: bool


@click.command(name="check", short_help="What an engine will really do with an exclusion list.")
@click.argument("subject", type=click.Path(path_type=Path))
@click.option("--for", "consumer", metavar="CONSUMER", required=True, help=_CONSUMERS)
@click.option("--version", "version", help="The consumer's version; else the newest known.")
@click.option(
    "--model",
    help="Of a config: the model's folder or hub id (only config and headers are read), or a plan.",
)
@click.option("--as", "form", default="", help="Of a plan: the form to hand over (export --to).")
@click.option("--all", "whole", is_flag=True, help="Show every layer.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write what works here.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@click.pass_obj
def command(interrupts: Interrupts, /, **options: object) -> None:
    """Prove what CONSUMER will run every layer in, given a plan, a checkpoint's folder or a config
    that somebody wrote, and name every entry of a list that does nothing, too much or half.
    Exit code 1 on any difference or fault.

    \b
    fp8scope check plan.json --for vllm
    fp8scope check ./Llama-3.1-8B-FP8 --for trtllm
    fp8scope check hf_quant_config.json --for sglang --model ./Llama-3.1-8B -o mended.json
    """
    from fp8scope.demo.files import DEMO_MODEL
    from fp8scope.export.checking import check
    from fp8scope.report.proof import check_json, check_page, check_sentence

    asked = _Arguments(**options)  # type: ignore[arg-type]  # click has checked them
    if asked.output is not None:
        claim_free(asked.output, interrupts, force=asked.force)
    model = str(DEMO_MODEL) if asked.model == DEMO else asked.model
    warnings.simplefilter("ignore", FutureWarning)  # of expressions that others wrote
    checked = check(
        asked.subject, asked.consumer, version=asked.version, model=model, form=asked.form
    )
    if asked.as_json:
        print_json(check_json(checked))
    else:
        console().print(check_page(checked, whole=asked.whole))
    if asked.output is not None and checked.corrected is not None:
        chosen = chosen_form(checked.corrected, "", asked.output)
        write_form(chosen, asked.output)
    if checked.proof.holds:
        if asked.output is not None:
            say("nothing is to be mended, so nothing was written")
        return
    raise GateFailed(check_sentence(checked).rstrip("."), _remedy(checked, asked.output))


def _remedy(checked: Checked, output: Path | None) -> str:
    if checked.corrected is None:
        return "see above"
    return "-o FILE writes what works" if output is None else f"{output} holds what works"
