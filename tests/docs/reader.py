"""What a reader has before the first command of a page, by its name there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from fp8scope.demo.files import DEMO_HELD_OUT, DEMO_MODEL, DEMO_TEXT
from tests.docs.pages import ROOT

PROFILES = ROOT / "profiles"


def _copy(of: Path) -> Callable[[Path], None]:
    def put(to: Path) -> None:
        if of.is_dir():
            shutil.copytree(of, to)
        else:
            shutil.copyfile(of, to)

    return put


def _experts(to: Path) -> None:
    """A small random mixture of experts with its tokenizer, and no text."""
    from tests.cli.folders import make

    make(to, "qwen3_moe")
    (to / "text.txt").unlink()


# The demo under neutral names, its recorded profile, and its texts (each short, a tag each).
THINGS: Mapping[str, Callable[[Path], None]] = {
    "profile.h5": _copy(PROFILES / "demo.h5"),
    "profiles": _copy(PROFILES),
    "my-model": _copy(DEMO_MODEL),
    "my-moe": _experts,
    "Llama-3.1-8B": _copy(DEMO_MODEL),
    "prose.txt": _copy(DEMO_TEXT / "prose.txt"),
    "technical.txt": _copy(DEMO_TEXT / "technical.txt"),
    "code.txt": _copy(DEMO_TEXT / "code.txt"),
    "support.jsonl": _copy(DEMO_TEXT / "support.jsonl"),
    "other_support.jsonl": _copy(DEMO_HELD_OUT / "support.jsonl"),
    "other_prose.txt": _copy(DEMO_HELD_OUT / "prose.txt"),
}


def put(names: list[str], folder: Path) -> None:
    """Put these things into the folder of a session."""
    for name in names:
        assert name in THINGS, f"nobody makes {name}: tests/docs/reader.py"
        THINGS[name](folder / name)
