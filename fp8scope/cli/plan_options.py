"""The options of `fp8scope plan`, and what they arrive as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fp8scope.cli.options import DTYPES, Number
from fp8scope.errors import BadInput

PRESETS = ("safe", "balanced", "fast")
CANDIDATES = ("fp8_tensor", "fp8_token", "fp8_block", "fp8_smooth")


@dataclass(frozen=True)
class PlanArguments:
    """The command line of a plan, checked by click."""

    profile: Path
    preset: str | None
    max_kl: float | None
    effective_bits: float | None
    max_bf16_share: float | None
    gpu: str
    batch: int
    context: int
    generate: int
    cost: Path | None
    keep: tuple[str, ...]
    exclude: tuple[str, ...]
    candidates: tuple[str, ...]
    kv_cache: str
    measure: str | None
    held_out: tuple[str, ...]
    held_out_samples: int | None
    dtype: str | None
    device: str
    resume: bool
    trust_remote_code: bool
    allow_pickle: bool
    output: Path
    force: bool
    as_json: bool


def _candidates(value: str | None) -> tuple[str, ...]:
    names = [name.strip() for name in (value or "").split(",") if name.strip()]
    unknown = [name for name in names if name not in CANDIDATES]
    if unknown or (value is not None and not names):
        shown = unknown[0] if unknown else "an empty list"
        raise click.BadParameter(f"{shown} is none of {', '.join(CANDIDATES)}")
    return tuple(name for name in CANDIDATES if name in names) or CANDIDATES


def _json_name(output: Path) -> Path:
    """The factors lie beside it under the same name as .npz."""
    if output.suffix == ".npz":
        raise BadInput(f"{output}: that name is for the factors", "give -o a name like plan.json")
    return output


_OPTIONS = (
    click.option(
        "--preset",
        type=click.Choice(PRESETS),
        help="A KL budget from what FP8's rounding alone costs this model: safe as much (at "
        "least 0.002 nats), balanced 1.2 times (0.005), fast twice (0.02).  [default: balanced]",
    ),
    click.option(
        "--max-kl",
        type=Number(min=0),
        metavar="NATS",
        help="The shortest step within this KL budget, in nats per token (0.01 is about 1% of "
        "perplexity).",
    ),
    click.option(
        "--effective-bits",
        type=Number(0, 16),
        metavar="BITS",
        help="The least KL with so many bits per weight on average, 8 to 16.",
    ),
    click.option(
        "--max-bf16-share",
        type=Number(0, 1),
        metavar="SHARE",
        help="The least KL with at most this share of the weights in BF16.",
    ),
    click.option(
        "--gpu",
        default="h100-sxm",
        show_default=True,
        help="Whose roofline gives the time of a step: h100-sxm, h200-sxm, b200, l40s, …",
    ),
    click.option(
        "--batch",
        type=click.IntRange(min=1),
        default=32,
        show_default=True,
        help="Sequences that decode at once.",
    ),
    click.option(
        "--context",
        type=click.IntRange(min=1),
        default=2048,
        show_default=True,
        help="Tokens of a prompt.",
    ),
    click.option(
        "--generate",
        type=click.IntRange(min=1),
        default=256,
        show_default=True,
        help="Tokens of an answer: with --context, how much of a step is prefill.",
    ),
    click.option(
        "--cost",
        type=click.Path(path_type=Path),
        metavar="VERDICT",
        help="A verdict.json with µs measured per group, in place of the roofline; its GPU and "
        "load go before --gpu, --batch, --context and --generate.",
    ),
    click.option(
        "--keep",
        multiple=True,
        metavar="PATTERN",
        help="Run in FP8 whatever it costs (so also lm_head): a group or module by name, glob, or "
        "re: and a regular expression. Repeatable.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Leave in BF16, with the rest of its fused group. Repeatable.",
    ),
    click.option(
        "--candidates",
        callback=lambda _, __, value: _candidates(value),
        metavar="NAME,…",
        help="What FP8 may be: fp8_tensor, fp8_token, fp8_block, fp8_smooth.  [default: all]",
    ),
    click.option(
        "--kv-cache",
        type=click.Choice(("bf16", "fp8", "auto")),
        default="bf16",
        show_default=True,
        help="auto: FP8 in all layers where that serves the objective.",
    ),
    click.option(
        "--measure",
        metavar="MODEL",
        help="Apply the plan to the model (folder, hub id or demo) by fake quantization, measure "
        "it on held-out text, and spend more where it misses the KL budget.",
    ),
    click.option(
        "--held-out",
        multiple=True,
        metavar="[TAG=]FILE",
        help="Text to measure on, as --calib of scan takes it; sequences that were calibrated on "
        "are left out. Repeatable.  [default: what the scan left of its own text]",
    ),
    click.option(
        "--held-out-samples",
        type=click.IntRange(min=2),
        help="Sequences to measure on, shared by the tags.  [default: 64]",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["bf16", "fp16", "fp32"]),
        callback=lambda _, __, value: DTYPES.get(value, value),
        help="Measure in this dtype: that of the scan, or fp32, in which what BF16 rounds anew at "
        "any change does not count.  [default: that of the scan]",
    ),
    click.option("--device", default="cpu", show_default=True, help="To measure on: cpu, cuda, …"),
    click.option("--resume", is_flag=True, help="Go on with a measuring that was interrupted."),
    click.option("--trust-remote-code", is_flag=True, help="Run code from the model's folder."),
    click.option("--allow-pickle", is_flag=True, help="Load pickled weights, which can run code."),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        default=Path("plan.json"),
        show_default=True,
        callback=lambda _, __, value: _json_name(value),
        help="Smoothing factors go beside it, as .npz.",
    ),
    click.option("--force", is_flag=True, help="Overwrite the output."),
    click.option("--json", "as_json", is_flag=True, help="The plan as JSON on stdout."),
)


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add every option, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
