"""What a verification is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fp8scope.errors import BadInput
from fp8scope.judge.gates import Limits
from fp8scope.traces.record import Engine as EngineName
from fp8scope.traces.record import Load
from fp8scope.verify.engines.engine import longest_answer
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

    def load(self, *, cuda: bool, context: int | None = None) -> Load:
        """`context`: the most tokens that the model takes; where it is less than usual, numbers
        that were not asked for are smaller too. Raises BadInput for a number that is not above 0,
        and for more tokens than that.
        """
        usual = ON_GPU if cuda else ON_CPU
        given = {"batch": self.batch, "prompt_len": self.prompt_len, "gen_len": self.gen_len}
        for name, value in given.items():
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}", "give a whole number above 0")
        asked = {name: value for name, value in given.items() if value is not None}
        if context is None:
            return usual.model_copy(update=asked)
        gen_len = asked.get("gen_len", max(1, min(usual.gen_len, context // 4)))
        room = context - longest_answer(gen_len)
        prompt_len = asked.get("prompt_len", max(1, min(usual.prompt_len, room)))
        if prompt_len > room:
            tokens = prompt_len + longest_answer(gen_len)
            what = f"{self.checkpoint} takes {context} tokens, and {tokens} are asked for"
            raise BadInput(what, "give a shorter --prompt-len or --gen-len")
        lengths = {"prompt_len": prompt_len, "gen_len": gen_len}
        return usual.model_copy(update=asked | lengths)
