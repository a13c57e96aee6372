"""What a child process is told to run, as JSON between the two."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Pass = Literal["timing", "tagged"]
"""timing: as fast as it goes, without tags (compiled, CUDA graphs). tagged: one prefill and a few
decode steps, eagerly, every module in a range of its own, between cudaProfilerStart and Stop."""
Watcher = Literal["none", "nsys", "ncu", "torch"]
RUN, TORCH_TRACE = "run.json", "trace.json"
"""What a child leaves in its folder."""


@dataclass(frozen=True)
class Order:
    """One run of the native engine. `watcher`: the profiler around it; for torch the child itself
    profiles, and writes trace.json. `folder`: where run.json goes. `baseline`: the checkpoint is a
    BF16 model. `dtype` of what is not FP8; None as the checkpoint.
    """

    checkpoint: str
    folder: str
    what: Pass
    watcher: Watcher
    device: str
    batch: int
    prompt_len: int
    gen_len: int
    baseline: bool = False
    dtype: str | None = None
    compile: bool = True
    repeats: int = 5
    decode_steps: int = 4
    seed: int = 0

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Order:
        """Inverse of `write`."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))
