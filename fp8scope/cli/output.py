"""The output file: nobody else writes it meanwhile, and nothing is overwritten unasked."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fp8scope.errors import BadInput, CannotWrite, OutputExists


@contextmanager
def claim(output: Path) -> Iterator[None]:
    """Keep other commands from writing `output`, by a locked file beside it.

    The lock is the kernel's, so that a killed process holds none. Making the file shows at once
    whether anything can be written there.

    Raises BadInput (no file, no such folder, claimed by another process) and CannotWrite.
    """
    from fp8scope.artefacts.atomic import temporary_path

    try:
        _check_place(output)
        lock = output.with_name(f".{output.name}.lock")
        file = _locked(lock)
    except BlockingIOError:
        raise BadInput(
            f"another fp8scope is writing {output} now", "wait for it, or give another -o"
        ) from None
    except OSError as error:
        raise CannotWrite(f"cannot write {output}: {error.strerror}", "give another -o") from error
    with file:
        try:
            yield
        finally:
            temporary_path(output).unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def check_free(output: Path, force: bool) -> None:
    """Refuse (OutputExists) an output that exists, unless it is to be overwritten."""
    if output.exists() and not force:
        raise OutputExists(
            f"{output} exists already", "give another -o, or --force to overwrite it"
        )


def _check_place(output: Path) -> None:
    if output.is_dir():
        raise BadInput(f"{output} is a folder", "give a file with -o")
    if output.exists() and (not output.is_file() or _is_stream(output)):
        # files get their name by a rename, which would put one in place of /dev/stdout
        raise BadInput(f"{output} is a device or a pipe", "give a file with -o")
    folder = output.resolve().parent
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}", "make it, or give another -o")


def _is_stream(output: Path) -> bool:
    """Whether it is an open file of this process, as /dev/stdout is wherever that leads."""
    leads_to = output.parent / (output.readlink() if output.is_symlink() else output.name)
    return any(path.parent.resolve().is_relative_to("/proc") for path in (output, leads_to))


def _locked(path: Path) -> IO[str]:
    """The file at `path`, locked. Raises BlockingIOError where another process has it."""
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        except OSError:  # a file system without locks: nothing can be claimed there
            return file
        # the one before us may have deleted the file between our open and our lock
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()
