"""`fp8scope verify`: does the GPU really run what was planned, how fast, and if not, why?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from fp8scope.cli.interrupts import Interrupts
from fp8scope.cli.options import Number
from fp8scope.cli.output import check_free, claim
from fp8scope.cli.show import console, print_json, say, wrote
from fp8scope.cli.subject import DEMO
from fp8scope.errors import BadInput, GateFailed

if TYPE_CHECKING:
    from fp8scope.artefacts.verdict import Verdict

ENGINES = ("native", "vllm", "trtllm", "command")
PROFILERS = ("auto", "nsys", "ncu", "torch")


_RUNNING = (
    "command", "baseline", "engine", "profiler", "device", "batch", "prompt_len", "gen_len",
    "repeats", "require_gpu", "timeout",
)  # fmt: skip
"""Options of a run."""
_WRITTEN = ParameterSource.COMMANDLINE


@dataclass(frozen=True)
class _Arguments:
    checkpoint: Path
    command: tuple[str, ...]
    baseline: str | None
    engine: str
    profiler: str
    device: str
    batch: int | None
    prompt_len: int | None
    gen_len: int | None
    repeats: int
    report: tuple[Path, ...]
    baseline_report: tuple[Path, ...]
    min_sm_active: float
    min_speedup: float | None
    require_gpu: bool
    timeout: float
    whole: bool
    output: Path
    force: bool
    as_json: bool


@click.command(name="verify", short_help="Is the GPU really running FP8, how fast, and why not?")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("command", metavar="[-- WORD…]", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--baseline", metavar="MODEL", help="The BF16 model (folder, hub id or demo) to run beside."
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=ENGINES[0],
    show_default=True,
    help="native: transformers with FP8 linears, in here. vllm, trtllm: their own benchmark, where"
    " installed; words after -- are added to it. command: the words after --, as they are.",
)
@click.option(
    "--profiler",
    type=click.Choice(PROFILERS),
    default=PROFILERS[0],
    show_default=True,
    help="auto: nsys, else torch, for what ran when; ncu, where it may, for counters.",
)
@click.option(
    "--device",
    type=click.Choice(("auto", "cpu", "cuda")),
    default="auto",
    show_default=True,
    help="auto: the first GPU that CUDA_VISIBLE_DEVICES shows, else the CPU.",
)
@click.option("--batch", type=click.IntRange(min=1), help="Sequences.  [default: 8; on a CPU 2]")
@click.option(
    "--prompt-len",
    type=click.IntRange(min=1),
    help="Tokens of each.  [default: 2048; CPU 64; fewer where the model takes fewer]",
)
@click.option(
    "--gen-len", type=click.IntRange(min=1), help="Tokens of an answer.  [default: 128; CPU 8]"
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Runs that are timed, after warming up.",
)
@click.option(
    "--report",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Run nothing: judge this report, made elsewhere (.sqlite, .nsys-rep, .ncu-rep, .csv,"
    " trace.json, run.json). Repeatable.",
)
@click.option(
    "--baseline-report",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="The same of the BF16 model.",
)
@click.option(
    "--min-sm-active",
    type=Number(0, 1),
    default=0.75,
    show_default=True,
    help="Gate: share of time in which an SM is busy, in the GEMMs of a prefill.",
)
@click.option("--min-speedup", type=Number(min=0), help="Gate: times as fast as the baseline.")
@click.option("--require-gpu", is_flag=True, help="Without a GPU, exit with 3.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=Number(min=0, min_open=True),
    default=3600.0,
    show_default=True,
    help="Of each pass; then it is ended with all that it started.",
)
@click.option("--all", "whole", is_flag=True, help="Show every group.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("verdict.json"),
    show_default=True,
    help="The profilers' reports are kept beside it, in verdict.reports.",
)
@click.option("--force", is_flag=True, help="Overwrite both.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as JSON on stdout.")
@click.pass_context
def command(context: click.Context, /, **options: object) -> None:
    """Run the FP8 checkpoint in the folder CHECKPOINT under a profiler, every layer tagged, and say
    for each what it was planned in, what it ran in, how long it took and why. Exit code 1 where a
    gate fails: a layer that fell back, SMs that idle. Without a GPU it runs too, and says what
    cannot be seen there.

    \b
    fp8scope verify ./Llama-3.1-8B-FP8 --baseline ./Llama-3.1-8B
    fp8scope verify ./L8B-FP8 --engine vllm -- --kv-cache-dtype fp8
    fp8scope verify ./L8B-FP8 --engine command -- python serve_once.py
    fp8scope verify ./L8B-FP8 --report server.sqlite --report counters.csv
    """
    from fp8scope.artefacts.verdict_file import write_verdict

    asked = _Arguments(**options)  # type: ignore[arg-type]  # click has checked them
    interrupts: Interrupts = context.obj
    _check(asked, _given(context))
    interrupts.cleanup.enter_context(claim(asked.output))
    check_free(asked.output, asked.force)
    verdict = _judged(asked) if asked.report else _run(asked, interrupts)
    write_verdict(verdict, asked.output)
    _show(verdict, asked)


def _given(context: click.Context) -> set[str]:
    """Options that were written, as `_Arguments` calls them."""
    named = context.params
    return {name for name in named if context.get_parameter_source(name) is _WRITTEN}


def _check(asked: _Arguments, given: set[str]) -> None:
    if asked.report and (idle := [name for name in _RUNNING if name in given]):
        word = "what follows --" if idle[0] == "command" else f"--{idle[0].replace('_', '-')}"
        raise BadInput("--report runs nothing", f"leave out {word}")
    if asked.baseline_report and not asked.report:
        raise BadInput("--baseline-report goes with --report", "give both")
    if str(asked.checkpoint) == DEMO and not asked.checkpoint.exists():
        what = "demo is a BF16 model, and verify runs an FP8 checkpoint"
        raise BadInput(what, "build one: fp8scope plan profile.h5, fp8scope build plan.json -o DIR")
    if asked.require_gpu and asked.device == "cpu":
        raise BadInput("--require-gpu and --device cpu exclude each other", "leave out one")
    if asked.min_speedup is not None and not (asked.baseline or asked.baseline_report):
        what = "--min-speedup compares with a baseline, and none is given"
        raise BadInput(what, "give the BF16 model with --baseline, or its --baseline-report")
    if asked.engine == "native" and asked.command:
        what = f"the native engine takes no words of its own ({asked.command[0]})"
        raise BadInput(what, "give --engine vllm, trtllm or command for what follows --")


def _judged(asked: _Arguments) -> Verdict:
    from fp8scope.judge.gates import Limits
    from fp8scope.verify.api import judge_reports

    limits = Limits(asked.min_sm_active, asked.min_speedup)
    return judge_reports(
        asked.checkpoint, asked.report, baseline_reports=asked.baseline_report, limits=limits
    )


def _run(asked: _Arguments, interrupts: Interrupts) -> Verdict:
    from fp8scope.judge.gates import Limits
    from fp8scope.verify.api import prepare
    from fp8scope.verify.folder import new_folder, reports_folder
    from fp8scope.verify.wanted import Wanted

    is_command = asked.engine == "command"
    wanted = Wanted(
        asked.checkpoint,
        _model(asked.baseline),
        asked.engine,  # type: ignore[arg-type]  # click has checked it
        asked.command if is_command else (),
        () if is_command else asked.command,
        asked.profiler,  # type: ignore[arg-type]
        asked.device,  # type: ignore[arg-type]
        asked.batch,
        asked.prompt_len,
        asked.gen_len,
        asked.repeats,
        asked.timeout,
        asked.require_gpu,
        Limits(asked.min_sm_active, asked.min_speedup),
    )
    ready = prepare(wanted, tell=say, cleanup=interrupts.cleanup)
    with new_folder(reports_folder(asked.output), force=asked.force) as folder:
        interrupts.standing = lambda: (
            f"what was left is in {folder} → run it again with --force, which empties that"
        )
        return ready.run(folder)


def _model(reference: str | None) -> str | None:
    from fp8scope.demo.files import DEMO_MODEL

    return str(DEMO_MODEL) if reference == DEMO else reference


def _show(verdict: Verdict, asked: _Arguments) -> None:
    from fp8scope.report.verdict import verdict_json, verdict_page, verdict_sentence

    if asked.as_json:
        print_json(verdict_json(verdict))
    else:
        console().print(verdict_page(verdict, whole=asked.whole))
    say(wrote(asked.output))
    if not verdict.passed:
        words = verdict_sentence(verdict)
        raise GateFailed(f"{asked.checkpoint}: {words}", f"see {asked.output}")
