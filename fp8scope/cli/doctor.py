"""`fp8scope doctor`: what is wrong with an FP8 checkpoint, without a GPU."""

from __future__ import annotations

from pathlib import Path

import click

from fp8scope.cli.examining import examining
from fp8scope.cli.show import console, print_json
from fp8scope.errors import GateFailed


@click.command(name="doctor", short_help="Find what is wrong with an FP8 checkpoint; no GPU.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--all", "whole", is_flag=True, help="Name every tensor and module concerned.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def command(checkpoint: Path, whole: bool, as_json: bool) -> None:
    """Read every byte of the FP8 checkpoint in the folder CHECKPOINT once, and name its faults:
    broken scales and codes, metadata that does not describe the tensors, damaged files, a plan
    that is not what was built. Exit code 1 on any error; warnings alone give 0.

    \b
    fp8scope doctor ./Llama-3.1-8B-FP8
    fp8scope doctor ./Llama-3.1-8B-FP8 --json
    """
    from fp8scope.checkpoint.doctor.examine import examine
    from fp8scope.report.doctor import doctor_json, doctor_page, doctor_sentence

    with examining() as progress:
        diagnosis = examine(checkpoint, progress=progress)
    if as_json:
        print_json(doctor_json(diagnosis))
    else:
        console().print(doctor_page(diagnosis, whole=whole))
    if not diagnosis.healthy:
        raise GateFailed(f"{checkpoint}: {doctor_sentence(diagnosis)}".rstrip("."), "see above")
