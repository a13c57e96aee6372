"""A folder that appears under its name whole, or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from fp8scope.artefacts.plan_file import read_plan
from fp8scope.build.finish import CODE, CONFIG, COPIED, METADATA
from fp8scope.errors import BadInput, CannotWrite, Fp8scopeError, OutputExists

BUILT = (
    CONFIG, METADATA, "model*.safetensors", "model.safetensors.index.json", "plan.json", "plan.npz",
)  # fmt: skip


class NewFolder:
    """`path` is where to write meanwhile, beside `output` and on its disk."""

    def __init__(self, output: Path, *, force: bool) -> None:
        self.output = output
        self.path = output.with_name(f".{output.name}.building")
        self.published = False
        self._old = output.with_name(f".{output.name}.old")
        self._force = force

    def publish(self) -> None:
        """Give it its name; of a build that is overwritten, drop the old one after that.

        Raises OutputExists and CannotWrite, and then nothing has changed.
        """
        check_free(self.output, force=self._force)  # somebody else may have been quicker
        try:
            _open_to_readers(self.path)
            _sync(self.path)
            if self.output.exists():
                self.output.rename(self._old)
            self.path.rename(self.output)
            self.published = True
        except OSError as error:
            raise _cannot_write(self.output, error) from error
        finally:
            self.settle()

    def settle(self) -> None:
        """Bring back the old build where no new one took its name, else drop it."""
        if not self._old.exists():
            return
        if self.output.exists():
            shutil.rmtree(self._old, ignore_errors=True)
        else:
            self._old.rename(self.output)


@contextmanager
def new_folder(output: Path, *, force: bool = False) -> Iterator[NewFolder]:
    """A folder to fill and publish; what is not published is deleted at the end.

    A killed process leaves `.NAME.building`, which the next one starts with clearing away. Raises
    OutputExists, BadInput (no place for it; another process is at it) and CannotWrite.
    """
    made, lock = _opened(output, force=force)
    with _closing(lock):
        _claim(lock, output)
        try:
            made.settle()  # what a process left that was killed between the two names
            check_free(output, force=force)
            _clear(made.path)
            yield made
        finally:
            if made.path.exists() and os.path.samestat(os.fstat(lock), made.path.stat()):
                shutil.rmtree(made.path, ignore_errors=True)
            made.settle()


def _opened(output: Path, *, force: bool) -> tuple[NewFolder, int]:
    """The folder, and a descriptor of it that can be locked."""
    if output.name in {"", ".."}:
        raise BadInput(f"{output} is no name of a new folder", "give one with -o")
    try:
        check_free(output, force=force)
        parent = output.resolve().parent
        if not parent.is_dir():
            raise BadInput(f"there is no folder {parent}", "make it, or give another -o")
        made = NewFolder(output, force=force)
        made.path.mkdir(exist_ok=True)
        return made, os.open(made.path, os.O_RDONLY)
    except OSError as error:
        raise _cannot_write(output, error) from error


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
    if why := _not_ours(output):
        what = f"{output} {why}, so it is not overwritten"
        raise OutputExists(what, "give another -o, or move it away")


def _not_ours(output: Path) -> str:
    """Why it is not a build, of which all may be deleted; empty where it is, or holds nothing."""
    if output.is_symlink() or not output.is_dir():
        return "is no folder that fp8scope built"
    found = sorted(output.iterdir())
    strange = next((path.name for path in found if not _is_made(path)), None)
    if not found or strange is not None:
        return f"holds {strange}, which no build makes" if found else ""
    try:
        read_plan(output / "plan.json")
        is_quantized = "quantization_config" in json.loads((output / CONFIG).read_bytes())
    except (Fp8scopeError, OSError, ValueError, TypeError):
        is_quantized = False
    return "" if is_quantized else "was not built by fp8scope"


def _is_made(path: Path) -> bool:
    return path.is_file() and any(fnmatchcase(path.name, name) for name in (*BUILT, *COPIED, CODE))


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
