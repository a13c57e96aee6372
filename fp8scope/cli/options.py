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
    """A FloatRange that does not let NaN through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click's, but NaN is refused."""
        number = super().convert(value, param, ctx)
        return self.fail("nan is no number.") if math.isnan(number) else number


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
