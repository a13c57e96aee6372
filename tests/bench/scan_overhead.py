"""How much a scan adds to a plain forward, with ModelOpt's calibrators beside it.

    python tests/bench/scan_overhead.py [--dtype bfloat16] [--rounds 7] [--moe]

A random Llama (55M parameters, four query heads a KV head), 8×512 tokens a forward; with --moe a
random Qwen3-MoE (32 experts of which 4 see a token, 8 layers), without ModelOpt beside it. All
contenders take turns within one run, so that a machine that speeds up or slows down does so for
all; the median of the ratios to the plain forward of the same round is printed. A scan computes
the logits of the last token alone; `no-logits` is the plain forward with that saving, so that both
the saving and the work of the scan can be read off. Peak memory: RSS over that of the plain
forward, each contender in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM as Causal
from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen3MoeConfig

from fp8scope.core.structure import Structure
from fp8scope.observe.recorder import Recorder
from fp8scope.runtime.batches import Batch
from fp8scope.runtime.structure import discover

ROWS, LENGTH = 8, 512
SCANS = ("standard", "full", "all-experts")
CONTENDERS = ("plain", "no-logits", "standard", "full", "modelopt-max", "modelopt-histogram")
MOE_CONTENDERS = ("plain", "no-logits", *SCANS)


SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 384,
}


def config(moe: bool) -> PreTrainedConfig:
    if moe:
        return Qwen3MoeConfig(**SHAPE, **EXPERTS)
    return LlamaConfig(**SHAPE, intermediate_size=1376)


def build(dtype: torch.dtype, moe: bool = False) -> PreTrainedModel:
    torch.manual_seed(0)
    model: Any = Causal.from_config(config(moe), dtype=dtype)  # type: ignore[no-untyped-call]
    return model.eval()  # type: ignore[no-any-return]


def fresh_ids() -> torch.Tensor:
    return torch.randint(0, 32000, (ROWS, LENGTH))


def plain(model: PreTrainedModel, logits_to_keep: int = 0) -> Callable[[], None]:
    def step() -> None:
        with torch.no_grad():
            model(input_ids=fresh_ids(), use_cache=False, logits_to_keep=logits_to_keep)

    return step


def scan(model: PreTrainedModel, name: str) -> Callable[[], None]:
    structure: Structure = discover(model)
    recorder = Recorder(
        model,
        structure,
        ("text",),
        1000,
        full=name == "full",
        all_experts=name == "all-experts",
    )
    sample = itertools.count(step=ROWS)

    def step() -> None:
        first = next(sample)
        batch = Batch(0, tuple(range(first, first + ROWS)), fresh_ids(), (LENGTH,) * ROWS)
        with recorder:
            recorder.run(batch, torch.device("cpu"))

    return step


def modelopt(dtype: torch.dtype, calibrator: str) -> Callable[[], None]:
    """A model with ModelOpt's quantizers, collecting and not quantizing."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.quantization.calib import HistogramCalibrator
    from modelopt.torch.quantization.nn import TensorQuantizer

    model = build(dtype)
    mtq.quantize(model, {**mtq.FP8_DEFAULT_CFG, "algorithm": None})
    for name, module in model.named_modules():
        if not isinstance(module, TensorQuantizer) or not module.is_enabled:
            continue
        if not name.endswith("input_quantizer"):
            module.disable()
            continue
        if calibrator == "histogram":
            module._calibrator = HistogramCalibrator(num_bits=(4, 3), axis=None)
        module.disable_quant()
        module.enable_calib()
    return plain(model)


def contender(name: str, model: PreTrainedModel) -> Callable[[], None]:
    if name == "plain":
        return plain(model)
    if name == "no-logits":
        return plain(model, logits_to_keep=1)
    if name in SCANS:
        return scan(model, name)
    return modelopt(next(model.parameters()).dtype, name.removeprefix("modelopt-"))


def time_ratios(model: PreTrainedModel, rounds: int, names: tuple[str, ...]) -> dict[str, Any]:
    steps = {name: contender(name, model) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if turn:  # the first turn warms up
                times[name].append(time.perf_counter() - started)
    return {
        name: {
            "seconds": statistics.median(taken),
            "ratio": statistics.median(t / p for t, p in zip(taken, times["plain"], strict=True)),
        }
        for name, taken in times.items()
    }


def measure_peak(step: Callable[[], None]) -> float:
    """Highest RSS in MB seen by a sampling thread during three steps (building has its own)."""
    process, peak, running = psutil.Process(), 0, True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(3):
        step()
    running = False
    watcher.join()
    return peak / 1e6


def peak_memory(dtype: str, moe: bool, name: str) -> float:
    """`measure_peak` in a fresh process."""
    command = [sys.executable, __file__, "--dtype", dtype, "--peak", name, *["--moe"] * moe]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--moe", action="store_true")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    model, moe = build(dtype, arguments.moe), arguments.moe
    if arguments.peak:
        print(measure_peak(contender(arguments.peak, model)))
        return
    names = tuple(arguments.only or (MOE_CONTENDERS if moe else CONTENDERS))
    result = time_ratios(model, arguments.rounds, names)
    base = peak_memory(arguments.dtype, moe, "plain")
    for name in SCANS:
        if name in result:
            result[name]["memory_mb"] = peak_memory(arguments.dtype, moe, name) - base
    print(
        json.dumps({"dtype": arguments.dtype, "model": model.config.model_type, **result}, indent=2)
    )


if __name__ == "__main__":
    main()
