"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from fp8scope.errors import CannotWrite


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path` by a temporary file, fsync and rename. Raises CannotWrite."""
    temporary = temporary_path(path)
    try:
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _fsync_folder(path.parent)
    except OSError as error:
        raise CannotWrite(
            f"cannot write {path} ({len(data) / 1e6:.1f} MB): {error.strerror}",
            "make room there, or choose another place",
        ) from error


def temporary_path(path: Path) -> Path:
    """Where a file is written before it gets its name; a killed writer leaves it behind."""
    return path.with_name(f".{path.name}.tmp")


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
