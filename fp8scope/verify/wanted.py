"""What a verification is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fp8scope.errors import BadInput
from fp8scope.judge.gates import Limits
from fp8scope.traces.record import Engine as EngineName
from fp8scope.traces.record import Load
from fp8scope.verify.profilers.choose import Asked

Where = Literal["auto", "cpu", "cuda"]
ON_GPU, ON_CPU = (
    Load(batch=8, prompt_len=2048, gen_len=128),
    Load(batch=2, prompt_len=64, gen_len=8),
)
"""A load where none is given: one that fills a GPU, and one that a CPU ends in seconds."""


@dataclass(frozen=True)
class Wanted:
    """`baseline`: the BF16 model, a folder or hub id; `command` and `options` are words of the
    engine's. A number of the load that is None is that of `ON_GPU` or `ON_CPU`. `timeout_s`: of
    each pass.
    """

    checkpoint: Path
    baseline: str | None = None
    engine: EngineName = "native"
    command: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    profiler: Asked = "auto"
    where: Where = "auto"
    batch: int | None = None
    prompt_len: int | None = None
    gen_len: int | None = None
    repeats: int = 5
    timeout_s: float | None = None
    require_gpu: bool = False
    limits: Limits = field(default_factory=Limits)

    def load(self, *, cuda: bool) -> Load:
        """Raises BadInput for a number that is not above 0."""
        usual = ON_GPU if cuda else ON_CPU
        given = {"batch": self.batch, "prompt_len": self.prompt_len, "gen_len": self.gen_len}
        for name, value in given.items():
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}", "give a whole number above 0")
        return usual.model_copy(update={k: v for k, v in given.items() if v is not None})
