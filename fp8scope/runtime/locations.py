"""How the location of a calibration text is written: a path, or `hf:NAME[:SPLIT]`."""

from pathlib import Path

HUB = "hf:"


def exists(location: str) -> bool:
    """Whether a file or folder has this name; False for what cannot be a name."""
    try:
        return Path(location).exists()
    except OSError:  # longer than a file name can be
        return False


def split_hub_name(location: str) -> tuple[str, str]:
    """`hf:NAME[:SPLIT]` → name and split; the split may be a slice such as `train[:500]`."""
    name = location.removeprefix(HUB)
    if exists(name):
        return name, "train"
    name, _, split = name.partition(":")
    return name, split or "train"
