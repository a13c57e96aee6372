"""The `fp8scope` command: one module per verb, imported when asked for.

stdout is data, stderr is for people. Exit codes: 0 done, 1 a gate failed, 2 bad input, 3
something is missing on this machine, 70 a fault of fp8scope itself (FP8SCOPE_TRACEBACK=1 shows
where), 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from importlib import import_module

import click

from fp8scope import __version__
from fp8scope.cli.interrupts import EXIT_CODE, Interrupts
from fp8scope.errors import Fp8scopeError

VERBS = (
    "scan",
    "analyze",
    "browse",
    "report",
    "plan",
    "estimate",
    "export",
    "check",
    "build",
    "doctor",
    "verify",
    "compare",
    "merge",
)
INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = import_module(f"fp8scope.cli.{cmd_name}").command
        return command if isinstance(command, click.Command) else None


@click.group(
    cls=_Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="fp8scope")
@click.pass_context
def cli(context: click.Context) -> None:
    """Where would FP8 hurt this model, on your traffic?

    \b
    fp8scope scan MODEL --calib prose=book.txt --calib chat.jsonl -o profile.h5
    fp8scope analyze profile.h5
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Run, and turn every refusal into one line on stderr and its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name may hold bytes that are no UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    interrupts = Interrupts()
    interrupts.listen()
    try:
        with interrupts.cleanup:
            cli(standalone_mode=False, obj=interrupts)
    except Fp8scopeError as error:
        _fail(_with_notes(str(error), error), error.exit_code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.UsageError as error:
        hint = f" → {error.ctx.command_path} --help" if error.ctx else ""
        _fail(error.format_message() + hint, 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", EXIT_CODE)
    except BrokenPipeError:  # the reader of stdout went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("FP8SCOPE_TRACEBACK"):
            traceback.print_exc()
        what = f"internal error: {type(error).__name__}: {str(error)[:300]}"
        remedy = "please report it; FP8SCOPE_TRACEBACK=1 shows where"
        _fail(_with_notes(f"{what} → {remedy}", error), INTERNAL_ERROR)


def _with_notes(line: str, error: Exception) -> str:
    """The line, and how to go on where a scan noted that on its error."""
    for note in getattr(error, "__notes__", ()):
        line += f"{'; ' if ' → ' in line else ' → '}{note}"
    return line


def _fail(message: str, code: int) -> None:
    from fp8scope.core.words import printable

    print(f"fp8scope: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)
