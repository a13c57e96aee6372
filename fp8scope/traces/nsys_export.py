"""A report of nsys as SQLite, made by nsys itself: its own format is not documented."""

from __future__ import annotations

import subprocess
from pathlib import Path

from fp8scope.errors import BadInput, Missing, one_line

EXPORT_SECONDS = 3600


def export_nsys(nsys: Path, report: Path, target: Path) -> None:
    """Let `nsys` write `report` as SQLite to `target`.

    Raises BadInput where it cannot open the report or does not end, Missing where it does not run.
    """
    words = ("--type=sqlite", "--force-overwrite=true", f"--output={target}")
    try:
        done = subprocess.run(  # noqa: S603
            [str(nsys), "export", *words, str(report.absolute())],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=EXPORT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        what = f"nsys has not exported {report} in {EXPORT_SECONDS // 60} minutes"
        raise BadInput(what, "record fewer steps") from error
    except OSError as error:
        raise Missing(f"{nsys} does not work ({one_line(error)})", "install it anew") from error
    if done.returncode or not target.exists() or target.stat().st_size == 0:
        said = (done.stderr + done.stdout).decode("utf-8", "replace")
        raise BadInput(
            f"nsys cannot export {report} ({_reason(said)})",
            "an older nsys cannot open a newer report: export it with the one that recorded it; "
            "else record it anew",
        )


def _reason(said: str) -> str:
    """The line that speaks of an error, else the first."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "failed" in line.lower()]
    return (errors or lines or ["it said nothing"])[0][:160]
