"""Options and output of what writes a report: HTML, Markdown, or one figure as PNG."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from fp8scope.cli.interrupts import Interrupts
from fp8scope.cli.output import check_free, claim
from fp8scope.cli.show import say, wrote
from fp8scope.errors import BadInput, CannotWrite

if TYPE_CHECKING:
    from fp8scope.report.document.blocks import Document, Figure

Form = Literal["html", "md", "png"]
SUFFIXES: dict[str, Form] = {".html": "html", ".htm": "html", ".md": "md", ".png": "png"}
NAMED = 8
"""Figures that a refusal names; those of one more layer are called alike."""
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass(frozen=True)
class Wanted:
    """What is asked for; without `output` Markdown goes to stdout, a PNG as well."""

    form: Form
    output: Path | None
    figure: str = ""
    dark: bool = False


def document_options(html: str) -> Callable[[Decorated], Decorated]:
    """-o, --format, --figure, --dark and --force; `html` says where HTML goes without -o."""
    options = (
        click.option("-o", "--output", type=click.Path(path_type=Path), help=html),
        click.option(
            "--format",
            "form",
            type=click.Choice(["html", "md", "png"]),
            help="Else by the suffix of -o. Markdown without -o goes to stdout.",
        ),
        click.option(
            "--figure",
            metavar="NAME",
            help="Which figure a PNG is of, and of its views which: NAME or NAME:2; the first "
            "if not said. A name that there is not is answered with those that there are.",
        ),
        click.option("--dark", is_flag=True, help="That figure in light on dark."),
        click.option("--force", is_flag=True, help="Overwrite what is there."),
    )

    def decorate(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def wanted(output: Path | None, form: str | None, figure: str | None, *, dark: bool) -> Wanted:
    """What the options ask for, HTML where nothing says otherwise. Raises BadInput where they
    contradict each other.
    """
    named = SUFFIXES.get(output.suffix.lower()) if output else None
    if output is not None and not (form or named):
        raise BadInput(f"what should {output} be?", "say --format html, md or png")
    if form and named and form != named:
        raise BadInput(f"--format {form} does not go with {output}", "leave one of them out")
    chosen: Any = form or named or ("png" if figure or dark else "html")
    if (figure or dark) and chosen != "png":
        raise BadInput("--figure and --dark are for --format png", "leave them out")
    if chosen == "png" and output is None and sys.stdout.isatty():
        raise BadInput("a PNG would fill the terminal", "give -o")
    return Wanted(chosen, output, figure or "", dark)


def claim_output(of: Wanted, read: Sequence[Path], interrupts: Interrupts, *, force: bool) -> None:
    """Nobody else writes it, and nothing is overwritten unasked, nor what is read ever."""
    output = of.output
    if output is None:
        return
    for path in read:
        if output.exists() and path.exists() and output.samefile(path):
            raise BadInput(f"{output} is what the report is made from", "give another -o")
    interrupts.cleanup.enter_context(claim(output))
    check_free(output, force)


def write_document(document: Document, of: Wanted) -> dict[str, Any]:
    """Write it, and say what was written as plain values; Markdown without a place to stdout.

    Raises BadInput for a figure that there is not, Missing and CannotWrite.
    """
    if of.form == "png":
        data = _drawing(document, of)
    elif of.form == "md":
        from fp8scope.report.document.markdown import markdown

        data = markdown(document).encode()
    else:
        from fp8scope.report.document.html import html

        data = html(document).encode()
    if of.output is None:
        _to_stdout(data)
        return {}
    from fp8scope.artefacts.atomic import write_atomically

    write_atomically(of.output, data)
    say(wrote(of.output))
    return {"output": str(of.output), "format": of.form, "bytes": len(data)}


def _to_stdout(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader went away, which is no fault
        raise
    except OSError as error:
        raise CannotWrite(f"cannot write to stdout: {error.strerror}", "give -o") from error


def figure_view(document: Document, named: str) -> tuple[Figure, int]:
    """The figure NAME, and the number from 0 of its view; without a name the first.

    Raises BadInput, with the names that there are.
    """
    from fp8scope.report.document.blocks import figures

    found = {figure.name: figure for figure in figures(document)}
    if not found:
        raise BadInput("there is no figure in this report", "choose --format html or md")
    name, _, number = named.partition(":")
    figure = found.get(name) or _of_layer(found, name) if name else next(iter(found.values()))
    if figure is None:
        # those of the whole model before those of a layer, whose names have dots
        known = sorted(found, key=lambda each: "." in each)
        more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
        raise BadInput(f"there is no figure {name!r}", f"one of {', '.join(known[:NAMED])}{more}")
    views = len(figure.views)
    if not number:
        return figure, 0
    if not number.isdecimal() or not 1 <= int(number) <= views:
        titles = ", ".join(f"{i} {view.title}" for i, view in enumerate(figure.views, start=1))
        raise BadInput(f"{name} has no view {number!r}", f"one of {titles}")
    return figure, int(number) - 1


def _of_layer(found: Mapping[str, Figure], name: str) -> Figure | None:
    """`costs-layers.0.mlp.down_proj` without its first `model.`, where just one ends so."""
    kind, _, layer = name.partition("-")
    alike = [each for each in found if each.startswith(f"{kind}-") and each.endswith(f".{layer}")]
    return found[alike[0]] if layer and len(alike) == 1 else None


def _drawing(document: Document, of: Wanted) -> bytes:
    from fp8scope.report.document.image import png
    from fp8scope.report.palette import palette

    figure, view = figure_view(document, of.figure)
    return png(figure, view, palette(dark=of.dark))
