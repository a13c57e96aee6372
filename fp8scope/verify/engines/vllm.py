"""vLLM: `vllm bench latency`, whose JSON holds the latency of each run of a whole batch.

It says nothing of first tokens: the same batch is timed with one token and with all of them. The
first is the time to the first token, the difference the decode steps.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np

from fp8scope.artefacts.verdict import Speed
from fp8scope.errors import BadInput, Missing
from fp8scope.traces.record import Device, RunRecord
from fp8scope.verify.engines.engine import Task, longest_answer, percentiles
from fp8scope.verify.launch import Launch
from fp8scope.verify.order import Watcher
from fp8scope.verify.profilers.tool import ask

INSTALL = "pip install vllm, or take --engine native"
PROFILED_FROM = (0, 13)
"""The first release with --profiler-config."""
_LATENCIES = "latency.json"
_FIRST, _WHOLE = "first_token", "whole"
# one process, so that profilers see the worker; spawn, since nsys loses forked ones (vLLM's docs)
_PROFILED = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}


class Vllm:
    """vLLM as it is installed beside fp8scope, or on PATH."""

    def _command(self) -> tuple[str, ...]:
        if importlib.util.find_spec("vllm") is not None:
            return (sys.executable, "-m", "vllm.entrypoints.cli.main")
        found = shutil.which("vllm")
        if found is None:
            raise Missing("vLLM is not installed", INSTALL)
        return (found,)

    def version(self) -> str:
        """Of the package, or what `vllm --version` says."""
        command = self._command()
        if len(command) > 1:
            return importlib.metadata.version("vllm")
        return ask([*command, "--version"]).strip().splitlines()[-1].split()[-1]

    def check(self, task: Task, watchers: Collection[Watcher]) -> None:
        """Raises Missing where it is not installed, or cannot be profiled."""
        version = self.version()
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < PROFILED_FROM:
            what = f"vLLM {version} has no --profiler-config"
            raise Missing(what, "install vLLM 0.13 or newer")

    def timing(self, task: Task, folder: Path) -> tuple[Launch, ...]:
        """Two runs: one token of every sequence, then all of them."""
        steps = [(_FIRST, 1), (_WHOLE, task.load.gen_len)]
        return tuple(
            Launch(
                (
                    *self._bench(task, gen_len),
                    *("--num-iters", str(task.repeats)),
                    *("--output-json", str(folder / name / _LATENCIES)),
                ),
                folder / name,
                task.environment,
            )
            for name, gen_len in (steps if task.load.gen_len > 1 else steps[:1])
        )

    def tagged(self, task: Task, watcher: Watcher, folder: Path) -> Launch:
        """One profiled batch, eagerly, with vLLM's own ranges per layer.

        Raises Missing for a vLLM that cannot be profiled this way.
        """
        self.check(task, [watcher])
        config: dict[str, str | bool] = {"profiler": "cuda"}
        if watcher == "torch":
            config = {
                "profiler": "torch",
                "torch_profiler_dir": str(folder.absolute()),
                "torch_profiler_record_shapes": True,
                "torch_profiler_with_stack": False,
            }
        words = (
            *self._bench(task, 1 + task.decode_steps),
            *("--enforce-eager", "--enable-layerwise-nvtx-tracing", "--profile"),
            *("--profiler-config", json.dumps(config)),
        )
        environment = {**task.environment, **_PROFILED}
        return Launch(words, folder, environment, marks=watcher in {"nsys", "ncu"})

    def _bench(self, task: Task, gen_len: int) -> tuple[str, ...]:
        load = task.load
        longest = load.prompt_len + longest_answer(load.gen_len, task.decode_steps)
        return (
            *self._command(),
            *("bench", "latency", "--model", task.checkpoint),
            *("--batch-size", str(load.batch), "--input-len", str(load.prompt_len)),
            *("--output-len", str(gen_len), "--num-iters-warmup", "2"),
            *("--max-model-len", str(longest)),
            *task.options,
        )

    def telling(self, line: str) -> str:
        """All of it."""
        return line

    def record(self, task: Task, folder: Path, device: Device) -> RunRecord:
        """Of the two runs' JSON."""
        first = read_latencies(folder / _FIRST / _LATENCIES)
        whole = first
        if task.load.gen_len > 1:
            whole = read_latencies(folder / _WHOLE / _LATENCIES)
        eager = "--enforce-eager" in task.options
        return RunRecord(
            engine="vllm",
            engine_version=self.version(),
            checkpoint=task.checkpoint,
            device=device,
            load=task.load,
            speed=speed_of(task, first, whole),
            compiled=not eager,
            cuda_graphs=not eager,
            notes=("TPOT is the time of all tokens less that of the first, per token",),
        )


def read_latencies(path: Path) -> list[float]:
    """Seconds of each run. Raises BadInput."""
    try:
        latencies = json.loads(path.read_bytes())["latencies"]
        return [float(each) for each in latencies]
    except OSError as error:
        what = f"vLLM left no {path.name} ({error.strerror})"
        raise BadInput(what, f"see what it printed in {path.parent}") from error
    except (ValueError, KeyError, TypeError) as error:
        what = f"{path} is not what vllm bench latency writes"
        raise BadInput(what, "run it again, with vLLM 0.9 or newer") from error


def speed_of(task: Task, first_s: list[float], whole_s: list[float]) -> Speed:
    """Of the seconds of whole batches: with one token, and with `gen_len`."""
    load = task.load
    prefill = float(np.mean(first_s))
    tpot = None
    if load.gen_len > 1:
        tpot = percentiles([(each - prefill) * 1e3 / (load.gen_len - 1) for each in whole_s])
    return Speed(
        ttft_ms=percentiles([each * 1e3 for each in first_s]),
        tpot_ms=tpot,
        latency_ms=percentiles([each * 1e3 for each in whole_s]),
        tokens_per_s=load.batch * load.gen_len / float(np.mean(whole_s)),
        prefill_tokens_per_s=load.batch * load.prompt_len / prefill,
        decode_tokens_per_s=load.batch * 1e3 / tpot.mean if tpot else None,
    )
