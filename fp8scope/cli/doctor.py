"""`fp8scope doctor`: what is wrong with an FP8 checkpoint, without a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from fp8scope.cli.show import console, print_json
from fp8scope.errors import GateFailed

STEP = 32 << 20  # bytes between two looks at the bar


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

    with _bar() as progress:
        diagnosis = examine(checkpoint, progress=progress)
    if as_json:
        print_json(doctor_json(diagnosis))
    else:
        console().print(doctor_page(diagnosis, whole=whole))
    if not diagnosis.healthy:
        raise GateFailed(f"{checkpoint}: {doctor_sentence(diagnosis)}".rstrip("."), "see above")


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """Shows how much is read where somebody looks at a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = ("reading", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bars:
        task = bars.add_task("reading", total=None)
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal shown
            if done - shown >= STEP or done == total:
                shown = done
                bars.update(task, completed=done, total=total)

        yield progress
