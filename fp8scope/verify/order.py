"""What a child process is told to run, and how it says that it could not: JSON between the two."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from fp8scope.errors import (
    BadInput,
    ChildFailed,
    Fp8scopeError,
    GateFailed,
    Interrupted,
    Missing,
)

Pass = Literal["timing", "tagged"]
"""timing: as fast as it goes, without tags (compiled, CUDA graphs). tagged: one prefill and a few
decode steps, eagerly, every module in a range of its own, between cudaProfilerStart and Stop."""
Watcher = Literal["none", "nsys", "ncu", "torch"]
DECODE_STEPS = 4
"""Of the tagged pass."""
RUN, TORCH_TRACE, REFUSAL = "run.json", "trace.json", "error.json"
"""What a child leaves in its folder: run.json last, or where it refuses error.json alone."""
ENDED = "fp8scope: interrupted"
"""The last line of a child that is stopped; it does not say why it was."""

_KINDS: dict[int, type[Fp8scopeError]] = {
    kind.exit_code: kind for kind in (GateFailed, BadInput, Missing, Interrupted)
}


@dataclass(frozen=True)
class Order:
    """One run of the native engine. `watcher`: the profiler around it; for torch the child itself
    profiles, and writes trace.json. `folder`: where run.json goes. `baseline`: the checkpoint is a
    BF16 model. `dtype` of what is not FP8; None as the checkpoint.

    `gen_len` tokens are made of each prompt: the first by the prefill, each other one by a decode
    step. `compile`: None on CUDA alone. `weight_only`: linears, by runtime name, whose FP8 weights
    are multiplied in the dtype of the rest: a fault that a verdict must find.
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
    compile: bool | None = None
    repeats: int = 5
    decode_steps: int = DECODE_STEPS
    seed: int = 0
    weight_only: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Order:
        """Inverse of `write`. Raises BadInput for what is no order."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            order = cls(**{**found, "weight_only": tuple(found.get("weight_only", ()))})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise BadInput(f"{path} is no order for a run: {error}", _WRITTEN) from None
        for name in ("batch", "prompt_len", "gen_len", "repeats", "decode_steps"):
            if not isinstance(found := getattr(order, name), int) or found < 1:
                raise BadInput(f"{path}: {name} is {found!r}, not a number above 0", _WRITTEN)
        return order


_WRITTEN = f"{Order.__name__}.write makes one, with {', '.join(f.name for f in fields(Order))}"


def refusal(error: Fp8scopeError) -> bytes:
    """The content of error.json."""
    said = {"what": error.what, "remedy": error.remedy, "exit_code": error.exit_code}
    return json.dumps(said).encode()


def read_refusal(folder: Path) -> Fp8scopeError | None:
    """What the child in this folder refused, to be raised again; None where it left no word."""
    try:
        said: dict[str, Any] = json.loads((folder / REFUSAL).read_text(encoding="utf-8"))
        what, remedy, code = str(said["what"]), str(said["remedy"]), int(said["exit_code"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    error = _KINDS.get(code, ChildFailed)(what, remedy)
    error.exit_code = code
    return error
