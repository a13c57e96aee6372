"""A folder that appears under its name whole, or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fp8scope.artefacts.plan import FORMAT
from fp8scope.artefacts.plan_file import read_plan
from fp8scope.errors import BadInput, CannotWrite, Fp8scopeError, OutputExists

PLAN = "plan.json"


class NewFolder:
    """`path` is where to write meanwhile, beside `output` and on its disk."""

    def __init__(self, output: Path, *, force: bool) -> None:
        self.output = output
        self.path = output.with_name(f".{output.name}.building")
        self._force = force

    def publish(self) -> None:
        """Give it its name; of a build that is overwritten, drop the old one after that.

        Raises OutputExists and CannotWrite, and then nothing has changed.
        """
        check_free(self.output, force=self._force)  # somebody else may have been quicker
        old = self.output.with_name(f".{self.output.name}.old")
        try:
            _open_to_readers(self.path)
            _sync(self.path)
            shutil.rmtree(old, ignore_errors=True)
            if self.output.exists():
                self.output.rename(old)
            self.path.rename(self.output)
        except OSError as error:
            if old.exists() and not self.output.exists():
                old.rename(self.output)
            raise _cannot_write(self.output, error) from error
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def new_folder(output: Path, *, force: bool = False) -> Iterator[NewFolder]:
    """A folder to fill and publish; what is not published is deleted at the end.

    A killed process leaves `.NAME.building`, which the next one starts with clearing away. Raises
    OutputExists, BadInput (no place for it; another process is at it) and CannotWrite.
    """
    check_free(output, force=force)
    if not output.resolve().parent.is_dir():
        what = f"there is no folder {output.resolve().parent}"
        raise BadInput(what, "make it, or give another -o")
    made = NewFolder(output, force=force)
    try:
        made.path.mkdir(exist_ok=True)
        lock = os.open(made.path, os.O_RDONLY)
    except OSError as error:
        raise _cannot_write(output, error) from error
    with _closing(lock):
        _claim(lock, output)
        try:
            _clear(made.path)
            yield made
        finally:
            if made.path.exists() and os.path.samestat(os.fstat(lock), made.path.stat()):
                shutil.rmtree(made.path, ignore_errors=True)


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def check_free(output: Path, *, force: bool) -> None:
    """Raise OutputExists where something is there that may not be overwritten.

    With `force` it may if it is a build of ours, or an empty folder: nothing else is ever deleted.
    """
    if not (output.exists() or output.is_symlink()):
        return
    if not force:
        raise OutputExists(f"{output} exists already", "give another -o, or --force")
    empty = output.is_dir() and not any(output.iterdir())
    if not (empty or _is_build(output)):
        what = f"{output} was not built by fp8scope, so it is not overwritten"
        raise OutputExists(what, "give another -o, or move it away")


def _is_build(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir() or not (folder / PLAN).is_file():
        return False
    try:
        return read_plan(folder / PLAN).format == FORMAT
    except Fp8scopeError:
        return False


def _claim(lock: int, output: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        what = f"another fp8scope is building {output} now"
        raise BadInput(what, "wait for it, or give another -o") from None
    except OSError:
        return  # a file system without locks: nothing can be claimed there


def _clear(folder: Path) -> None:
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def _open_to_readers(folder: Path) -> None:
    """As the umask says: some libraries write for the owner alone, and servers are other users."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)


def _sync(folder: Path) -> None:
    """All of it on the disk before it gets its name: a crash must not leave a name without data."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _cannot_write(output: Path, error: OSError) -> CannotWrite:
    return CannotWrite(f"cannot write {output}: {error.strerror}", "make room, or give another -o")
