"""docs/reference/commands.md, made from the help of the commands."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module

import click

from fp8scope.cli.app import VERBS, cli

HEAD = """# Commands

<!-- Made from the commands' own help: UPDATE_GOLDEN=1 pytest tests/docs/test_commands_page.py -->

`fp8scope VERB --help` says the same in the terminal. stdout is data, stderr is for people: what is
worth a pipe can be piped.

| exit code | |
|---|---|
| 0 | done |
| 1 | a gate failed: a list that does not hold, a broken checkpoint, profiles that differ |
| 2 | bad input; the last line says what, where, and what to do |
| 3 | something is missing on this machine: a package, a terminal, memory |
| 70 | a fault of fp8scope itself; `FP8SCOPE_TRACEBACK=1` shows where |
| 130 | interrupted; the last line says how to go on |

| verb | |
|---|---|
"""
ONE_ROW = "| [`{verb}`](#{verb}) | {short} |\n"


def page() -> str:
    """The whole page."""
    verbs = {verb: command(verb) for verb in VERBS}
    rows = [ONE_ROW.format(verb=v, short=c.get_short_help_str(200)) for v, c in verbs.items()]
    return HEAD + "".join(rows) + "".join(_section(v, c) for v, c in verbs.items())


def command(verb: str) -> click.Command:
    """The command behind a verb."""
    found = import_module(f"fp8scope.cli.{verb}").command
    assert isinstance(found, click.Command)
    return found


def examples(verb: str) -> list[str]:
    """The command lines in a verb's help."""
    return [
        line
        for part, verbatim in _parts(command(verb))
        if verbatim
        for line in part.splitlines()
        if line.startswith("fp8scope ")
    ]


def _section(verb: str, of: click.Command) -> str:
    context = click.Context(of, info_name=verb, parent=click.Context(cli, info_name="fp8scope"))
    text = f"\n## {verb}\n\n```text\n{context.command_path} {_usage(context)}\n```\n"
    for part, verbatim in _parts(of):
        if verbatim:
            shown = part.replace("fp8scope ", "$ fp8scope ")
            text += f"\n```console\n{shown}\n```\n"
        else:
            text += f"\n{part}\n"
    return text + "\n| option | |\n|---|---|\n" + "".join(_options(context))


def _usage(context: click.Context) -> str:
    return " ".join(context.command.collect_usage_pieces(context))


def _parts(of: click.Command) -> Iterator[tuple[str, bool]]:
    """Paragraphs of the help, and whether each is to be left as it is (marked with a backspace)."""
    for part in inspect.cleandoc(of.help or "").split("\n\n"):
        yield part.removeprefix("\b\n"), part.startswith("\b")


def _options(context: click.Context) -> Iterator[str]:
    for option in context.command.get_params(context):
        record = option.get_help_record(context)
        if record is None or not record[1] or "--help" in option.opts:
            continue
        # In code, mkdocs shows the backslash of an escaped bar.
        names, text = (part.replace("|", "&#124;") for part in record)
        yield f"| <code>{names}</code> | {text} |\n"
