"""What an export hands over: one of its forms, on stdout or in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fp8scope.cli.interrupts import Interrupts
from fp8scope.cli.output import check_free, claim
from fp8scope.cli.show import say, wrote
from fp8scope.errors import BadInput

if TYPE_CHECKING:
    from fp8scope.export.consumer import Document, Form


def chosen_form(document: Document, name: str, output: Path | None) -> Form:
    """The form `name`, else the first of the output's suffix, else the first of all.

    Raises BadInput for a name that there is not.
    """
    if name:
        if name not in document.forms:
            raise BadInput(f"there is no form {name!r}", f"one of {', '.join(document.forms)}")
        return document.forms[name]
    forms = list(document.forms.values())
    if output is None:
        return forms[0]
    alike = [form for form in forms if form.suffix == output.suffix]
    if not alike and len(forms) > 1:
        known = ", ".join(f"{each} ({form.suffix})" for each, form in document.forms.items())
        raise BadInput(f"which form is {output.name}?", f"say it with --form: {known}")
    return (alike or forms)[0]


def claim_free(output: Path, interrupts: Interrupts, *, force: bool) -> None:
    """Nobody else writes it, and nothing is overwritten unasked. Raises as `claim`."""
    interrupts.cleanup.enter_context(claim(output))
    check_free(output, force)


def whole(form: Form) -> str:
    """The text, ending as a text file does."""
    return form.text if form.text.endswith("\n") else f"{form.text}\n"


def write_form(form: Form, output: Path) -> None:
    """Write it whole or not at all. Raises CannotWrite."""
    from fp8scope.artefacts.atomic import write_atomically

    write_atomically(output, whole(form).encode())
    say(wrote(output))
