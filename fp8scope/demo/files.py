"""The demo's model and text, which come with the package."""

from __future__ import annotations

from pathlib import Path

from fp8scope.runtime.sources import Source

HERE = Path(__file__).parent
DEMO_MODEL = HERE / "model"
DEMO_TEXT = HERE / "text"
DEMO_HELD_OUT = HERE / "held_out"


def demo_sources(folder: Path = DEMO_TEXT) -> list[Source]:
    """The demo's texts, a tag each: the files of `folder` by name."""
    return [
        Source(path.stem, str(path))
        for path in sorted(folder.iterdir())
        if path.suffix in {".txt", ".jsonl"}
    ]


def demo_held_out() -> list[Source]:
    """Other text of the same tags, which neither a scan of the demo nor its training has read."""
    return demo_sources(DEMO_HELD_OUT)
