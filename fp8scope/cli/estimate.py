"""`fp8scope estimate`: what a GPU can give a model, without a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from fp8scope.cli.show import console, print_json
from fp8scope.cli.subject import DEMO
from fp8scope.errors import BadInput

if TYPE_CHECKING:
    from fp8scope.core.gpus import Gpu


@dataclass(frozen=True)
class _Arguments:
    subject: str
    gpus: str
    tp: int
    batch: int
    context: int
    generate: int
    kv_cache: str | None
    model: str | None
    as_json: bool


@click.command(
    name="estimate", short_help="What a GPU can give at most, in BF16 and in FP8; no GPU."
)
@click.argument("subject", metavar="MODEL|PLAN|CHECKPOINT")
@click.option(
    "--gpu",
    "gpus",
    metavar="NAME,…",
    default="h100-sxm",
    show_default=True,
    help="h100-sxm, h200-sxm, b200, gb10, l40s, a100, …; several are compared.",
)
@click.option(
    "--tp",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="GPUs that share the model: tensor parallelism.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Sequences at once.",
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    default=2048,
    show_default=True,
    help="Tokens of a prompt.",
)
@click.option(
    "--generate",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Tokens of an answer.",
)
@click.option(
    "--kv-cache",
    type=click.Choice(("bf16", "fp8")),
    help="What FP8 runs with; BF16 keeps its own.  [default: bf16, or as the plan says]",
)
@click.option(
    "--model",
    help="Of a plan: the folder or hub id that it was made for, which has embeddings and heads.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def command(**options: object) -> None:
    """Say what a GPU can give at most: does it have FP8 Tensor Cores, do weights, KV cache and
    activations fit, what bounds prefill and decode, how much faster FP8 can be, and from which
    batch on. Takes a model's or an FP8 checkpoint's folder, a hub id (config.json and headers are
    fetched), `demo`, or a plan.json. Bounds from data sheets, not promises.

    \b
    fp8scope estimate ./Llama-3.1-8B --gpu h200 --batch 8
    fp8scope estimate plan.json --model ./Llama-3.1-8B --gpu l40s
    fp8scope estimate ./Llama-3.1-8B --gpu h100-sxm,h200,b200,gb10,l40s,a100 --tp 2 --context 8192
    """
    from fp8scope.core.roofline import Workload
    from fp8scope.demo.files import DEMO_MODEL
    from fp8scope.estimate.api import estimate, read_served
    from fp8scope.report.estimate import estimate_page
    from fp8scope.report.estimate_json import estimate_json

    asked = _Arguments(**options)  # type: ignore[arg-type]  # click has checked them
    machines = _machines(asked.gpus)
    load = Workload(asked.batch, asked.context, asked.generate)
    subject = str(DEMO_MODEL) if asked.subject == DEMO else asked.subject
    model = str(DEMO_MODEL) if asked.model == DEMO else asked.model
    served = read_served(subject, model)
    if asked.subject == DEMO:
        served = replace(served, name=DEMO)
    found = [
        estimate(served, machine, tp=asked.tp, workload=load, kv_cache=asked.kv_cache)  # type: ignore[arg-type]
        for machine in machines
    ]
    if asked.as_json:
        print_json(estimate_json(found))
    else:
        console().print(estimate_page(found))


def _machines(names: str) -> list[Gpu]:
    """The GPUs of the list, each once. Raises BadInput."""
    from fp8scope.core.gpus import gpu

    given = [name.strip() for name in names.split(",") if name.strip()]
    if not given:
        raise BadInput("--gpu names no GPU", "give one, or several with commas between them")
    return list({found.name: found for found in map(gpu, given)}.values())
