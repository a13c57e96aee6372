"""How the location of a calibration text is written: a path, or `hf:NAME[:[CONFIG:]SPLIT]`.

Names, configurations and splits hold no `:`, except that a split may be a slice: of two words
after the name the first is the configuration, one alone is the split.
"""

import re
from dataclasses import dataclass
from pathlib import Path

HUB = "hf:"
HUB_SYNTAX = f"{HUB}NAME, {HUB}NAME:SPLIT or {HUB}NAME:CONFIG:SPLIT"
_PARTS = re.compile(r"(?P<name>[^:]*)(:(?P<config>[^:\[]+))??(:(?P<split>[^:\[]+(\[[^]]*\])?))?")
_ROWS = re.compile(r"(?P<split>[^\[]+)\[(?P<start>\d*):(?P<stop>\d*)\]")


@dataclass(frozen=True)
class HubName:
    """A data set of the hub, or a local folder of one. `config` None is its only one.

    `split` may be a slice such as `train[:500]` or `train[10%:]`.
    """

    name: str
    config: str | None = None
    split: str = "train"

    @property
    def is_whole(self) -> bool:
        """Whether the split is no slice."""
        return "[" not in self.split

    def rows(self) -> tuple[str, int, int | None] | None:
        """Split, first row and end of a slice in rows; (split, 0, None) of a whole split.

        None for a slice in percent or from the end, which needs the length of the split.
        """
        if self.is_whole:
            return self.split, 0, None
        found = _ROWS.fullmatch(self.split)
        if not found:
            return None
        stop = int(found["stop"]) if found["stop"] else None
        return found["split"], int(found["start"] or 0), stop


def exists(location: str) -> bool:
    """Whether a file or folder has this name; False for what cannot be a name."""
    try:
        return Path(location).exists()
    except (OSError, ValueError):  # longer than a file name can be; a NUL
        return False


def parse_hub_name(location: str) -> HubName | None:
    """The parts of `hf:NAME[:[CONFIG:]SPLIT]`; None where it is written otherwise."""
    name = location.removeprefix(HUB)
    if exists(name):
        return HubName(name)
    found = _PARTS.fullmatch(name)
    if not found or not found["name"]:
        return None
    return HubName(found["name"], found["config"], found["split"] or "train")


def printable(location: str) -> str:
    """The location with what is not UTF-8 in it (a file name may be any bytes) spelled out."""
    return location.encode("utf-8", "backslashreplace").decode()
