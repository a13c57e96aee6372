"""What an engine says of its own run: the device, how it holds each linear, how fast it was.

The native engine writes it as run.json; of other engines it is made from what their benchmarks
print. A profiler's report is something else: see `trace`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fp8scope.artefacts.verdict import Part, Speed

Engine = Literal["native", "vllm", "trtllm", "command"]


class Device(Part):
    """Where it ran. `count`: devices that took part. `mig`: a slice of a GPU."""

    kind: Literal["cuda", "cpu"]
    name: str
    compute_capability: tuple[int, int] | None = None
    memory_bytes: int | None = None
    sms: int | None = None
    count: int = 1
    mig: bool = False
    driver: str = ""


class Load(Part):
    """What was asked of it: `batch` prompts of `prompt_len` tokens, `gen_len` tokens each."""

    batch: int
    prompt_len: int
    gen_len: int


class RunRecord(Part):
    """One run. `held`: treatment of each linear by its runtime name, of those that are not BF16
    (`core.modules.Treatment`); empty where the engine does not say. `runs_fp8`: those of them whose
    GEMM the engine runs in FP8, where it knows. `notes`: in sentences.
    """

    format: Literal["fp8scope-run"] = "fp8scope-run"
    version: Literal[1] = 1
    engine: Engine
    engine_version: str
    checkpoint: str
    device: Device
    load: Load
    speed: Speed
    held: dict[str, str] = Field(default_factory=dict)
    runs_fp8: tuple[str, ...] = ()
    compiled: bool = False
    cuda_graphs: bool = False
    kv_cache: Literal["bf16", "fp8"] | None = None
    notes: tuple[str, ...] = ()
