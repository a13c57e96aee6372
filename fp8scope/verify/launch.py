"""What is to be started: a command, and what a profiler around it must know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Launch:
    """A command, the variables that it needs besides ours, and the folder for all that it leaves.

    `marks`: it calls cudaProfilerStart and Stop around what is to be measured.
    """

    words: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    marks: bool = False
