"""The options of `fp8scope scan`, and what they arrive as."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


@dataclass(frozen=True)
class Arguments:
    """The command line of a scan, checked by click."""

    model: str
    calib: tuple[str, ...]
    samples: int
    seq_len: int
    seed: int
    dtype: str | None
    record: str
    all_experts: bool
    sensitivity: str | None
    sensitivity_samples: int
    candidates: tuple[str, ...]
    alphas: tuple[float, ...]
    parts: bool
    batch_tokens: int
    keep_every: float
    device: str
    output: Path
    resume: bool
    force: bool
    as_json: bool
    trust_remote_code: bool
    allow_pickle: bool


class Number(click.FloatRange):
    """A FloatRange that lets neither NaN nor infinity through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click's, but for what is not finite."""
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{number} is no number.")


def _candidates(value: str | None) -> tuple[str, ...]:
    from fp8scope.core.schemes import CANDIDATES, DEFAULT_CANDIDATES  # numpy is not for --help

    if value is None:
        return DEFAULT_CANDIDATES
    names = [name.strip() for name in value.split(",") if name.strip()]
    unknown = [name for name in names if name not in CANDIDATES and name != "all"]
    if unknown or not names:
        shown = unknown[0] if unknown else "an empty list"
        raise click.BadParameter(f"{shown} is none of {', '.join(CANDIDATES)}, all")
    return tuple(CANDIDATES) if "all" in names else tuple(dict.fromkeys(names))


def _alphas(value: str) -> tuple[float, ...]:
    try:
        alphas = sorted({float(part) for part in value.split(",")})
    except ValueError:
        raise click.BadParameter(f"{value} is no list of numbers") from None
    if not all(0 <= alpha <= 1 for alpha in alphas):
        raise click.BadParameter(f"{value}: an α lies between 0 and 1")
    return tuple(alphas)


_OPTIONS = (
    click.option(
        "--calib",
        multiple=True,
        metavar="[TAG=]FILE",
        help="Text like your traffic: .txt, .md, code, .jsonl or .json (`text` or chat "
        "`messages`, optional `tag`), .parquet or hf:NAME[:[CONFIG:]SPLIT]. Repeatable; the tag "
        "(letters, digits, _ . -) is the file's name unless given.",
    ),
    click.option(
        "--samples",
        type=click.IntRange(min=2),
        default=512,
        show_default=True,
        help="Sequences, shared by the tags.",
    ),
    click.option(
        "--seq-len",
        type=click.IntRange(min=2),
        default=2048,
        show_default=True,
        help="Longest sequence, in tokens.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**63 - 1),  # what HDF5 holds
        default=0,
        show_default=True,
        help="Of the choice of sequences.",
    ),
    click.option(
        "--dtype",
        type=click.Choice([*DTYPES, *DTYPES.values()]),
        callback=lambda _, __, value: DTYPES.get(value, value),
        help="Run in this dtype  [default: the checkpoint's]",
    ),
    click.option(
        "--record",
        type=click.Choice(["standard", "full"]),
        default="standard",
        show_default=True,
        help="full adds linear outputs, and the FP8 error per token, channel and block.",
    ),
    click.option(
        "--all-experts",
        is_flag=True,
        help="Show every token to every routed expert; the output stays that of the routing.",
    ),
    click.option(
        "--sensitivity",
        type=click.Choice(["fisher", "kl", "none"]),
        help="Second pass: the KL in nats that each fused group would cost in each candidate. "
        "fisher: one backward for all; kl: each measured by itself, slow.  "
        "[default: fisher where memory allows]",
    ),
    click.option(
        "--sensitivity-samples",
        type=click.IntRange(min=2),
        default=64,
        show_default=True,
        help="Sequences of the second pass.",
    ),
    click.option(
        "--candidates",
        callback=lambda _, __, value: _candidates(value),
        metavar="NAME,…",
        help="What to score: fp8_tensor, fp8_token, fp8_block, fp8_smooth; what-ifs e5m2_tensor, "
        "int8_tensor, int8_smooth, int8_weight, int4_weight, nvfp4; `all`.  [default: all fp8]",
    ),
    click.option(
        "--alphas",
        default="0.25,0.5,0.75",
        show_default=True,
        callback=lambda _, __, value: _alphas(value),
        metavar="α,…",
        help="Smoothing strengths to try: 0 leaves all to the input, 1 all to the weight.",
    ),
    click.option("--parts", is_flag=True, help="Score weights alone and inputs alone as well."),
    click.option(
        "--batch-tokens",
        type=click.IntRange(min=1),
        default=4096,
        show_default=True,
        help="Most tokens in a micro-batch.",
    ),
    click.option(
        "--keep-every",
        type=Number(min=0),
        default=30.0,
        show_default=True,
        help="Seconds between partials kept on disk.",
    ),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, …"),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        default=Path("profile.h5"),
        show_default=True,
    ),
    click.option("--resume", is_flag=True, help="Go on with the scan whose partial is beside -o."),
    click.option(
        "--force",
        is_flag=True,
        help="Overwrite -o, and drop a kept partial (with --resume: go on from it).",
    ),
    click.option(
        "--json", "as_json", is_flag=True, help="Every site's measures as JSON on stdout."
    ),
    click.option(
        "--trust-remote-code",
        is_flag=True,
        help="Run Python code from the model's folder, where transformers has no class for it.",
    ),
    click.option(
        "--allow-pickle", is_flag=True, help="Load pickled weights (.bin); they can run code."
    ),
)


def scan_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a scan, in the order in which its help lists them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
