"""`fp8scope build`: a plan and its model → an FP8 checkpoint that engines load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fp8scope.cli.examining import examining
from fp8scope.cli.interrupts import Interrupts
from fp8scope.cli.options import DTYPES, Number
from fp8scope.cli.show import console, print_json, say
from fp8scope.errors import GateFailed

if TYPE_CHECKING:
    from fp8scope.build.api import Built
    from fp8scope.build.memory import Needs
    from fp8scope.build.order import Events, Order

FORMATS = ("modelopt", "compressed-tensors")


@dataclass(frozen=True)
class _Arguments:
    plan: Path
    output: Path
    model: str | None
    format: str
    dtype: str | None
    device: str
    shard_gb: float
    trust_remote_code: bool
    allow_pickle: bool
    force: bool
    as_json: bool


@click.command(name="build", short_help="The FP8 checkpoint of a plan.")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The new folder."
)
@click.option("--model", help="The plan's model: folder, hub id or `demo`; else as the plan says.")
@click.option(
    "--format",
    "format",
    type=click.Choice(FORMATS),
    default=FORMATS[0],
    show_default=True,
    help="Whose words: ModelOpt's (vLLM, SGLang, TensorRT-LLM), or compressed-tensors'"
    " (vLLM, SGLang, transformers).",
)
@click.option(
    "--dtype",
    type=click.Choice([*DTYPES, *DTYPES.values()]),
    callback=lambda _, __, value: DTYPES.get(value, value),
    help="Of what stays unquantized; else as the model was scanned.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu is enough.")
@click.option(
    "--shard-gb",
    type=Number(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Largest file.",
)
@click.option("--trust-remote-code", is_flag=True, help="Run Python code of the model's folder.")
@click.option("--allow-pickle", is_flag=True, help="Load pickled weights, which can run code.")
@click.option("--force", is_flag=True, help="Overwrite an earlier build.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@click.pass_obj
def command(interrupts: Interrupts, /, **options: object) -> None:
    """Build the FP8 checkpoint that PLAN describes: fold its smoothing into the weights, quantize
    with the plan's scales, and write weights, scales, metadata, tokenizer and plan into a new
    folder. It is examined before it gets its name, and read as engines read it. No GPU is needed.

    \b
    fp8scope build plan.json -o ./Llama-3.1-8B-FP8
    fp8scope build plan.json -o ./L8B-FP8 --format compressed-tensors --model ./Llama-3.1-8B
    """
    from fp8scope.artefacts.plan_file import read_factors, read_plan
    from fp8scope.build.folder import new_folder

    asked = _Arguments(**options)  # type: ignore[arg-type]  # click has checked them
    plan = read_plan(asked.plan)
    factors = read_factors(plan, asked.plan)
    folder = interrupts.cleanup.enter_context(new_folder(asked.output, force=asked.force))
    interrupts.standing = lambda: (
        f"{asked.output} is complete" if folder.published else "nothing is left of it"
    )
    say("loading torch and ModelOpt …")
    from fp8scope.runtime.quiet import quiet_transformers

    quiet_transformers()
    from fp8scope.build.api import build_into
    from fp8scope.build.order import Order
    from fp8scope.build.source import reference_of
    from fp8scope.runtime.loading import LoadOptions

    order = Order(
        plan,
        factors,
        reference_of(plan, asked.model or ""),
        asked.format,  # type: ignore[arg-type]  # click has checked it
        LoadOptions(asked.dtype, asked.device, asked.trust_remote_code, asked.allow_pickle),
        int(asked.shard_gb * 1e9),
    )
    with examining() as examined:
        built = build_into(order, folder, _events(examined))
    _report(built, order, as_json=asked.as_json)


def _events(examined: Callable[[int, int], None]) -> Events:
    from fp8scope.build.order import Events

    return Events(
        step=lambda name: say(f"{name} …"),
        needs=_say_needs,
        examined=examined,
        warn=lambda sentence: say(f"warning: {sentence}"),
    )


def _say_needs(found: Needs) -> None:
    from fp8scope.build.memory import size

    say(f"this takes about {size(found.memory)} of memory, and {size(found.disk)} on the disk")


def _report(built: Built, order: Order, *, as_json: bool) -> None:
    from fp8scope.build.order import WRITTEN
    from fp8scope.export.readers import readers
    from fp8scope.report.built import built_json, built_page

    read_by = readers(built.folder, WRITTEN[built.format])
    diagnosis = replace(built.diagnosis, folder=built.folder)
    if as_json:
        data = built_json(order.plan, built.format, built.before, diagnosis, read_by)
        print_json(data)
    else:
        console().print(built_page(order.plan, built.before, diagnosis, read_by))
    if not any(reader.holds for reader in read_by):
        raise GateFailed(
            f"{built.folder} is whole, but no engine will run it as planned",
            "see what fp8scope check says for the engine that you use",
        )
