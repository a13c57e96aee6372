"""`fp8scope scan`: model + text → profile."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fp8scope.cli.show import check_output, console, print_json, say
from fp8scope.errors import BadInput, BadText, Interrupted

if TYPE_CHECKING:
    from fp8scope.observe.scan import Subject
    from fp8scope.profile.partial import Partials
    from fp8scope.profile.record import Profile
    from fp8scope.runtime.loading import LoadOptions
    from fp8scope.runtime.sources import Source


_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


@dataclass(frozen=True)
class _Arguments:
    model: str
    calib: tuple[str, ...]
    samples: int
    seq_len: int
    seed: int
    dtype: str | None
    record: str
    batch_tokens: int
    keep_every: float
    device: str
    output: Path
    resume: bool
    force: bool
    as_json: bool
    trust_remote_code: bool
    allow_pickle: bool


@click.command(name="scan", short_help="Record what a model's numbers look like on your text.")
@click.argument("model")
@click.option(
    "--calib",
    multiple=True,
    metavar="[TAG=]FILE",
    help="Text like your traffic: .txt, .md, code, .jsonl or .json (`text` or chat `messages`, "
    "optional `tag`), .parquet or hf:NAME[:[CONFIG:]SPLIT]. Repeatable; the tag (letters, digits, "
    "_ . -) is the file's name unless given.",
)
@click.option("--samples", default=512, show_default=True, help="Sequences, shared by the tags.")
@click.option("--seq-len", default=2048, show_default=True, help="Longest sequence, in tokens.")
@click.option("--seed", default=0, show_default=True, help="Of the choice of sequences.")
@click.option(
    "--dtype",
    type=click.Choice([*_DTYPES, *_DTYPES.values()]),
    callback=lambda _, __, value: _DTYPES.get(value, value),
    help="Run in this dtype  [default: the checkpoint's]",
)
@click.option(
    "--record",
    type=click.Choice(["standard", "full"]),
    default="standard",
    show_default=True,
    help="full adds linear outputs, and the FP8 error per token, channel and block.",
)
@click.option(
    "--batch-tokens", default=4096, show_default=True, help="Most tokens in a micro-batch."
)
@click.option(
    "--keep-every", default=30.0, show_default=True, help="Seconds between partials kept on disk."
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, …")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("profile.h5"),
    show_default=True,
)
@click.option("--resume", is_flag=True, help="Go on with the scan whose partial is beside -o.")
@click.option("--force", is_flag=True, help="Overwrite -o, and drop a kept partial.")
@click.option("--json", "as_json", is_flag=True, help="Every site's measures as JSON on stdout.")
@click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run Python code from the model's folder, where transformers has no class for it.",
)
@click.option(
    "--allow-pickle", is_flag=True, help="Load pickled weights (.bin); they can run code."
)
def command(**options: object) -> None:
    """Record statistics of every linear's input and weight, the residual stream and the KV cache.

    MODEL is a folder, a hub id, or `demo` (a small model that needs no text and no network).

    \b
    fp8scope scan ./Llama-3.1-8B --calib support=tickets.jsonl --calib code=repo.txt
    fp8scope scan demo
    """
    arguments = _Arguments(**options)  # type: ignore[arg-type]  # click has checked them
    _run(arguments)


def _run(arguments: _Arguments) -> None:
    from fp8scope.profile.partial import Partials
    from fp8scope.profile.reader import open_profile

    partials = Partials(arguments.output)
    if arguments.resume and arguments.output.exists() and not arguments.force:
        profile = open_profile(arguments.output)
        partials.remove()
        say(f"{arguments.output} is complete already: nothing to resume")
        _report(profile, arguments)
        return
    check_output(arguments.output, arguments.force)
    if partials.exist() and not (arguments.resume or arguments.force):
        raise BadInput(
            f"an unfinished scan is kept beside {arguments.output}",
            "--resume goes on with it, --force starts again",
        )
    if arguments.samples < 1 or arguments.batch_tokens < 1 or arguments.keep_every < 0:
        raise BadInput(
            "--samples, --batch-tokens or --keep-every is too small",
            "give at least 1, 1 and 0",
        )
    with tempfile.TemporaryDirectory(prefix="fp8scope-demo-") as folder:
        subject = _load(arguments, Path(folder))
        kept = partials.load() if arguments.resume else None
        if arguments.force and not arguments.resume:
            partials.remove()
        profile = _scan(arguments, subject, partials, kept)
    _finish(arguments, profile, partials)


def _load(arguments: _Arguments, demo_folder: Path) -> Subject:
    say("loading torch and the model …")
    _quiet_transformers()
    from fp8scope.runtime.loading import LoadOptions
    from fp8scope.runtime.sources import parse_source

    options = LoadOptions(
        dtype=arguments.dtype,
        device=arguments.device,
        trust_remote_code=arguments.trust_remote_code,
        allow_pickle=arguments.allow_pickle,
    )
    sources = [parse_source(value) for value in arguments.calib]
    reference = arguments.model
    if reference == "demo":
        from fp8scope.demo.make import make_demo

        sources = sources if sources else make_demo(demo_folder)
        reference = str(demo_folder)
    elif not sources:
        raise BadText("no text was given", "give text like your traffic with --calib FILE")
    return _subject(arguments, reference, sources, options)


def _quiet_transformers() -> None:
    """Its bars and advice are about loading; our own refusals say what matters."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _subject(
    arguments: _Arguments, reference: str, sources: list[Source], options: LoadOptions
) -> Subject:
    from fp8scope.observe.scan import Subject
    from fp8scope.runtime.loading import context_length, load, vocabulary_size
    from fp8scope.runtime.structure import discover
    from fp8scope.runtime.text import build_calibration

    loaded = load(reference, options)
    identity = {**loaded.identity, "name": arguments.model}
    calibration = build_calibration(
        sources,
        loaded.tokenizer,
        samples=arguments.samples,
        seq_len=arguments.seq_len,
        seed=arguments.seed,
        context=context_length(loaded.model),
        vocab_size=vocabulary_size(loaded.model),
    )
    structure = discover(loaded.model, loaded.tensor_shapes)
    return Subject(loaded.model, loaded.tokenizer, loaded.config, identity, structure, calibration)


def _scan(
    arguments: _Arguments, subject: Subject, partials: Partials, kept: Profile | None
) -> Profile:
    from fp8scope.cli.progress import watch
    from fp8scope.observe.scan import Scan, ScanOptions

    if arguments.resume:
        done = kept.batches_done if kept else 0
        say(f"resuming after {done} batches" if kept else "no partial is kept: starting anew")
    options = ScanOptions(arguments.record, arguments.batch_tokens, arguments.keep_every)
    with watch(subject.calibration.tokens) as events, _how_to_go_on(arguments):
        return Scan(subject, options, events, partials).run(kept)


@contextmanager
def _how_to_go_on(arguments: _Arguments) -> Iterator[None]:
    try:
        yield
    except Interrupted as error:
        again = [word for word in sys.argv[1:] if word not in ("--resume", "--force")]
        raise Interrupted(
            error.what, f"go on with: fp8scope {shlex.join([*again, '--resume'])}"
        ) from None


def _finish(arguments: _Arguments, profile: Profile, partials: Partials) -> None:
    from fp8scope.profile.writer import write_profile

    write_profile(profile, arguments.output)
    partials.remove()
    _report(profile, arguments)


def _report(profile: Profile, arguments: _Arguments) -> None:
    from fp8scope.analyze.measures import measure_sites
    from fp8scope.report.rows import profile_summary, site_row
    from fp8scope.report.text import worst_sites

    rows = measure_sites(profile)
    if arguments.as_json:
        rows_json = [site_row(row) for row in rows]
        print_json(
            {"profile": str(arguments.output), **profile_summary(profile), "rows": rows_json}
        )
    else:
        console().print(worst_sites(rows, 10))
    for note in profile.notes:
        say(f"note: {note}")
    size = arguments.output.stat().st_size / 1e6
    say(f"wrote {arguments.output} ({size:.1f} MB); next: fp8scope analyze {arguments.output}")
