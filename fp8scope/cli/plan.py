"""`fp8scope plan`: profile → plan.json, which precision every layer runs in, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fp8scope.cli.interrupts import Interrupts
from fp8scope.cli.output import check_free, claim
from fp8scope.cli.plan_options import PlanArguments, plan_options
from fp8scope.cli.show import console, print_json, say, wrote
from fp8scope.errors import BadInput, GateFailed

if TYPE_CHECKING:
    from fp8scope.artefacts.plan import Plan
    from fp8scope.plan.settings import PlanSettings


@click.command(name="plan", short_help="Choose what every layer runs in, within a budget.")
@click.argument("profile", type=click.Path(path_type=Path))
@plan_options
@click.pass_obj
def command(interrupts: Interrupts, /, **options: object) -> None:
    """Choose what every layer runs in, within a budget: FP8 per tensor, per token, per block or
    smoothed, or BF16; per fused group, each with its reason. "Nothing to exclude" is an answer.

    \b
    fp8scope plan profile.h5
    fp8scope plan profile.h5 --max-kl 0.01 --gpu h200-sxm --batch 64 --exclude '*.o_proj'
    fp8scope plan profile.h5 --measure ./Llama-3.1-8B --held-out support=other_tickets.jsonl
    fp8scope plan profile.h5 --effective-bits 8.5 --candidates fp8_tensor -o tensor.json
    """
    from fp8scope.artefacts.plan_file import factors_path, write_plan
    from fp8scope.plan.make import PlanMaker
    from fp8scope.profile.reader import open_profile

    arguments = PlanArguments(**options)  # type: ignore[arg-type]  # click has checked them
    _check(arguments)
    profile = open_profile(arguments.profile)
    interrupts.cleanup.enter_context(claim(arguments.output))
    _check_output(arguments)
    maker = PlanMaker(profile, _settings(arguments))
    failed = ""
    if arguments.measure is None:
        plan, factors = maker.plan(maker.choose())
    else:
        from fp8scope.cli.measuring import measure

        found = measure(arguments, maker, interrupts)
        plan, factors = maker.plan(found.choice, found.max_kl, found.measured, found.notes)
        failed = found.failed
    plan = write_plan(plan, factors, arguments.output)
    if arguments.measure is not None:
        from fp8scope.measure.api import forget

        forget(arguments.output)
    _report(plan, arguments)
    said = wrote(arguments.output)
    say(f"{said} and {factors_path(arguments.output).name}" if plan.factors else said)
    if failed:
        raise GateFailed(failed, "raise the budget, or take back a --keep")


def _check(arguments: PlanArguments) -> None:
    """Refuse what only makes sense with --measure."""
    alone = {
        "--held-out": arguments.held_out,
        "--held-out-samples": arguments.held_out_samples,
        "--dtype": arguments.dtype,
        "--resume": arguments.resume,
    }
    for option, given in alone.items():
        if given and arguments.measure is None:
            raise BadInput(f"{option} is for measuring", "say of which model: --measure MODEL")


def _check_output(arguments: PlanArguments) -> None:
    """Refuse what would be overwritten: either file unasked, and what is read in any case."""
    from fp8scope.artefacts.plan_file import factors_path

    output = arguments.output
    for read in filter(None, (arguments.profile, arguments.cost)):
        if output.exists() and read.exists() and output.samefile(read):
            raise BadInput(f"{output} is what the plan is made from", "give another -o")
    for path in (output, factors_path(output)):
        check_free(path, arguments.force)


def _settings(arguments: PlanArguments) -> PlanSettings:
    from fp8scope.core.roofline import Workload
    from fp8scope.plan.settings import PlanSettings

    return PlanSettings(
        max_kl=arguments.max_kl,
        effective_bits=arguments.effective_bits,
        max_bf16_share=arguments.max_bf16_share,
        preset=arguments.preset,
        gpu=arguments.gpu,
        workload=Workload(arguments.batch, arguments.context, arguments.generate),
        times=arguments.cost,
        kept=arguments.keep,
        excluded=arguments.exclude,
        candidates=arguments.candidates,
        kv_cache=arguments.kv_cache,  # type: ignore[arg-type]  # click has checked it
    )


def _report(plan: Plan, arguments: PlanArguments) -> None:
    from fp8scope.report.plan import plan_page

    if arguments.as_json:
        print_json(plan.model_dump(mode="json"))
    else:
        console().print(plan_page(plan))
