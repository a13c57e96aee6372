"""Every way fp8scope can refuse, with its exit code.

An error is one line for a person: what is wrong and where, then what to do about it.
The command line prints that line on stderr and exits with `exit_code`.
"""

import textwrap


def one_line(error: BaseException, width: int = 160) -> str:
    """The message of a foreign exception on one line of at most `width` characters.

    It is cut between words; an exception without words gives its class.
    """
    short = textwrap.shorten(str(error), width, placeholder=" …")
    return type(error).__name__ if short in {"", "…"} else short


class Fp8scopeError(Exception):
    """Base of all refusals. `what` says what is wrong and where, `remedy` what to do."""

    exit_code = 2

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what} → {remedy}" if remedy else what)


def in_words(error: BaseException) -> str:
    """A refusal as it is, a foreign exception on one line."""
    return str(error) if isinstance(error, Fp8scopeError) else one_line(error)


class BadInput(Fp8scopeError):
    """The user gave something that cannot be worked on (exit 2)."""


class BadModel(BadInput):
    """The model cannot be loaded, or its numbers are broken (exit 2)."""


class BadText(BadInput):
    """The calibration text is missing, empty or unreadable (exit 2)."""


class OutputExists(BadInput):
    """The output is already there and `--force` was not given (exit 2)."""


class CannotWrite(BadInput):
    """The output could not be written: disk full, no permission (exit 2)."""


class NotAProfile(BadInput):
    """The file was not written by fp8scope (exit 2)."""


class ProfileVersion(BadInput):
    """The profile is ours, but of a version this release does not read (exit 2)."""


class DamagedProfile(BadInput):
    """The profile is ours, but truncated, corrupt or unfinished (exit 2)."""


class CannotMerge(BadInput):
    """Two profiles do not describe the same model in the same way (exit 2)."""


class CannotCompare(BadInput):
    """Two profiles have nothing that can be compared (exit 2)."""


class CannotResume(BadInput):
    """What is kept belongs to another scan (exit 2)."""


class NotAPlan(BadInput):
    """The file is no plan.json of fp8scope (exit 2)."""


class PlanVersion(BadInput):
    """The plan is ours, but of a version this release does not read (exit 2)."""


class DamagedPlan(BadInput):
    """The plan is ours, but truncated or changed, or its factors are not those (exit 2)."""


class NotAVerdict(BadInput):
    """The file is no verdict.json of fp8scope (exit 2)."""


class VerdictVersion(BadInput):
    """The verdict is ours, but of a version this release does not read (exit 2)."""


class DamagedVerdict(BadInput):
    """The verdict is ours, but truncated or changed (exit 2)."""


class Stale(BadInput):
    """Two files that do not belong together: another model, fine-tune or profile (exit 2)."""


class ChildFailed(BadInput):
    """A process that was started for a measurement hung, crashed or failed (exit 2)."""


class GateFailed(Fp8scopeError):
    """What was asked for does not hold; the work itself is done (exit 1)."""

    exit_code = 1


class Missing(Fp8scopeError):
    """A package, a device or a network is missing on this machine (exit 3)."""

    exit_code = 3


class Interrupted(Fp8scopeError):
    """Ctrl-C: what was done is kept, and the message says how to go on (exit 130)."""

    exit_code = 130
