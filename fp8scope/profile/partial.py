"""Partials: what a scan keeps on disk while it runs, so that any crash can be resumed.

HDF5 flushed in place does not survive a SIGKILL, so a partial is a whole profile file
(`complete` false) written with fsync + rename, to two names in turn: even a partial that the
disk damaged later leaves the one before it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fp8scope.artefacts.atomic import temporary_path
from fp8scope.errors import BadInput, CannotResume
from fp8scope.profile.reader import read_profile
from fp8scope.profile.record import Profile
from fp8scope.profile.writer import write_profile


class Partials:
    """The two alternating partial files beside an output file."""

    def __init__(self, output: Path) -> None:
        self.paths = tuple(output.with_name(f"{output.name}.partial-{i}") for i in (0, 1))
        self._writes = 0

    def exist(self) -> bool:
        """Is there anything kept?"""
        return any(path.exists() for path in self.paths)

    def save(self, profile: Profile) -> None:
        """Write to the older of the two. Raises CannotWrite."""
        part = replace(profile, complete=False)
        write_profile(part, self.paths[self._writes % 2], compression=1)
        self._writes += 1

    def load(self) -> Profile | None:
        """The readable partial that got furthest; None where none is kept.

        Raises CannotResume if some are kept but none is readable.
        """
        kept: list[tuple[tuple[int, int, int], int, Profile]] = []
        damage: list[BadInput] = []
        for i, path in enumerate(self.paths):
            if not path.exists():
                continue
            try:
                profile = read_profile(path, unfinished=True)
            except BadInput as error:  # damaged, cut to nothing, or of another version
                damage.append(error)
            else:
                kept.append((profile.progress, i, profile))
        if not kept:
            if damage:
                raise CannotResume(
                    f"no kept partial is readable: {damage[0].what}",
                    "start again without --resume (and with --force)",
                )
            return None
        _, newest, profile = max(kept, key=lambda entry: entry[:2])
        self._writes = newest + 1
        return profile

    def remove(self) -> None:
        """Delete both, and what a killed writer left."""
        for path in self.paths:
            path.unlink(missing_ok=True)
            temporary_path(path).unlink(missing_ok=True)
