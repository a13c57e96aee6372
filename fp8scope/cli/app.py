"""The `fp8scope` command: one module per verb, imported when asked for.

stdout is data, stderr is for people. Exit codes: 0 done, 1 a gate failed, 2 bad input, 3
something is missing on this machine, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from fp8scope import __version__
from fp8scope.errors import Fp8scopeError

VERBS = ("scan", "analyze", "merge")


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = import_module(f"fp8scope.cli.{cmd_name}").command
        return command if isinstance(command, click.Command) else None


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fp8scope")
def cli() -> None:
    """Where would FP8 hurt this model, on your traffic?

    \b
    fp8scope scan MODEL --calib prose=book.txt --calib chat.jsonl -o profile.h5
    fp8scope analyze profile.h5
    """


def main() -> None:
    """Run, and turn every refusal into one line on stderr and its exit code."""
    try:
        cli(standalone_mode=False)
    except Fp8scopeError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.UsageError as error:
        hint = f" → {error.ctx.command_path} --help" if error.ctx else ""
        _fail(error.format_message() + hint, 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of stdout went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _fail(message: str, code: int) -> None:
    print(f"fp8scope: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
