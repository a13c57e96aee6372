"""`fp8scope scan`: model + text → profile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from fp8scope.cli.interrupts import Interrupts
from fp8scope.cli.options import Arguments, scan_options
from fp8scope.cli.output import check_free, claim
from fp8scope.cli.show import console, go_on, next_step, print_json, say, wrote
from fp8scope.errors import (
    BadInput,
    CannotResume,
    CannotWrite,
    Fp8scopeError,
    Interrupted,
    OutputExists,
)

if TYPE_CHECKING:
    from fp8scope.observe.scan import ScanOptions, Subject
    from fp8scope.profile.partial import Partials
    from fp8scope.profile.record import Profile

RESUMABLE = (Interrupted, CannotWrite, OutputExists)


@click.command(name="scan", short_help="Record what a model's numbers look like on your text.")
@click.argument("model")
@scan_options
@click.pass_obj
def command(interrupts: Interrupts, /, **options: object) -> None:
    """Record statistics of every linear's input and weight, the residual stream and the KV cache.

    MODEL is a folder, a hub id, or `demo` (a small model that needs no text and no network).

    \b
    fp8scope scan ./Llama-3.1-8B --calib support=tickets.jsonl --calib code=repo.txt
    fp8scope scan demo
    """
    from fp8scope.cli.subject import check_texts, load_subject
    from fp8scope.profile.partial import Partials

    arguments = Arguments(**options)  # type: ignore[arg-type]  # click has checked them
    sources = check_texts(arguments)
    interrupts.cleanup.enter_context(claim(arguments.output))
    partials = Partials(arguments.output)
    interrupts.standing = lambda: _how_to_go_on(partials) or "nothing is kept"
    finished = _check_output(arguments, partials)
    with _saying_how_to_go_on(partials):
        say("loading torch and the model …")
        subject = load_subject(arguments, sources)
        if finished:
            _check_finished(arguments, subject, finished, partials)
            said = f"{arguments.output} is complete already: nothing to resume"
        else:
            finished = _scan(arguments, subject, partials, interrupts)
            _write(arguments, finished, partials, interrupts)
            said = wrote(arguments.output)
    _report(arguments, finished)
    say(f"{said}; {next_step(arguments.output)}")


def _check_output(arguments: Arguments, partials: Partials) -> Profile | None:
    """The finished profile that --resume finds at -o, if any; else that -o is free."""
    from fp8scope.profile.reader import open_profile

    if arguments.resume and arguments.output.exists() and not arguments.force:
        return open_profile(arguments.output)
    check_free(arguments.output, arguments.force)
    if partials.exist() and not (arguments.resume or arguments.force):
        raise BadInput(
            f"an unfinished scan is kept beside {arguments.output}",
            "--resume goes on with it, --force starts again",
        )
    return None


def _check_finished(
    arguments: Arguments, subject: Subject, finished: Profile, partials: Partials
) -> None:
    """Refuse (CannotResume) a profile of another scan; drop what is kept of this one."""
    from fp8scope.observe.scan import Scan
    from fp8scope.profile.same import check_same_scan

    wanted = Scan(subject, _options(arguments)).new_profile()
    remedy = "give another -o, or --force to overwrite it"
    check_same_scan(wanted, finished, str(arguments.output), remedy)
    with suppress(CannotResume):
        kept = partials.load()
        if kept:
            check_same_scan(wanted, kept, "the kept partial", "")
            partials.remove()


def _scan(
    arguments: Arguments, subject: Subject, partials: Partials, interrupts: Interrupts
) -> Profile:
    from fp8scope.cli.progress import watch
    from fp8scope.observe.scan import Scan

    kept = partials.load() if arguments.resume else None
    if arguments.resume and kept is None:
        say("no partial is kept: starting anew")
    if not arguments.resume:
        partials.remove()
    with watch(interrupts) as events:
        return Scan(subject, _options(arguments), events, partials).run(kept)


def _options(arguments: Arguments) -> ScanOptions:
    from fp8scope.core.choices import Choices
    from fp8scope.observe.scan import ScanOptions
    from fp8scope.observe.sensitivity import SensitivityOptions

    sensitivity = SensitivityOptions(
        samples=arguments.sensitivity_samples,
        choices=Choices(arguments.candidates, arguments.alphas, arguments.parts),
        measure_all=arguments.sensitivity == "kl",
        required=arguments.sensitivity is not None,
    )
    return ScanOptions(
        record=arguments.record,
        batch_tokens=arguments.batch_tokens,
        keep_every=arguments.keep_every,
        all_experts=arguments.all_experts,
        sensitivity=None if arguments.sensitivity == "none" else sensitivity,
    )


def _write(
    arguments: Arguments, profile: Profile, partials: Partials, interrupts: Interrupts
) -> None:
    from fp8scope.profile.writer import write_profile

    output = arguments.output
    interrupts.finishing = f"writing {output}"
    try:
        if output.exists() and not arguments.force:
            raise OutputExists(f"{output} appeared while the scan ran", "move it away")
        write_profile(profile, output)
    except (CannotWrite, OutputExists):
        with suppress(CannotWrite):
            partials.save(profile)
        raise
    partials.remove()
    interrupts.finishing = ""
    interrupts.standing = lambda: f"{output} is complete"
    if interrupts.asked:
        raise Interrupted(f"interrupted, {output} is complete")


@contextmanager
def _saying_how_to_go_on(partials: Partials) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        advice = _how_to_go_on(partials)
        if advice and (isinstance(error, RESUMABLE) or not isinstance(error, Fp8scopeError)):
            error.add_note(advice)
        raise


def _how_to_go_on(partials: Partials) -> str:
    """The command that goes on with what is kept; empty where nothing is."""
    return go_on() if partials.exist() else ""


def _report(arguments: Arguments, profile: Profile) -> None:
    from fp8scope.analyze.analysis import analyze_profile
    from fp8scope.analyze.groups import group_findings, model_scores
    from fp8scope.analyze.kvcache import kv_cache
    from fp8scope.report.analysis import analysis_row, where_it_hurts

    if arguments.as_json:
        found = analyze_profile(profile)
        print_json({"profile": str(arguments.output), **analysis_row(found)})
    else:
        caches = kv_cache(profile)
        console().print(where_it_hurts(model_scores(profile), group_findings(profile), caches))
    for note in profile.notes:
        say(f"note: {note}")
