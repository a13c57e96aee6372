"""What tags cost: a decode step of a small random Llama, without any, after some, and under them.

    python -m tests.bench.tags [--rounds 40]

A Llama of 8 layers and 512 channels makes a token at a time, for one sequence: the least work per
module, so that tags weigh the most. All take turns within one run; printed are the medians of the
ratios to the step without tags of the same round, with quartiles, and the ratio of the fastest
steps, which other work on the machine disturbs less. `after`: tags were set and are gone. No
profiler is attached: what nsys or torch.profiler add is theirs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig

from fp8scope.runtime.structure import discover
from fp8scope.verify.native.tags import Marker, Nvtx, TorchRanges, tags

STEPS, PROMPT = 4, 32
SHAPE: dict[str, Any] = {
    "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "vocab_size": 2048,
    "num_attention_heads": 8, "num_key_value_heads": 2,
}  # fmt: skip
MARKERS: Mapping[str, Callable[[], Sequence[Marker]] | None] = {
    "none": None,
    "after": None,
    "NVTX": lambda: [Nvtx()],
    "NVTX and torch": lambda: [Nvtx(), TorchRanges()],
}


class Steps:
    """Steps of one model under any markers."""

    def __init__(self, shape: Mapping[str, Any] = SHAPE) -> None:
        torch.manual_seed(0)
        auto: Any = AutoModelForCausalLM
        self._model: Any = auto.from_config(LlamaConfig(**shape), dtype=torch.bfloat16).eval()
        self._structure = discover(self._model)

    @torch.no_grad()
    def seconds(self, markers: Sequence[Marker] | None) -> float:
        """Of a step, in the middle of a few."""
        cache = DynamicCache(config=self._model.config)
        self._step(torch.zeros(1, PROMPT, dtype=torch.long), cache)
        tagged: Any = nullcontext()
        if markers is not None:
            tagged = tags(self._model, self._structure, markers)
        token = torch.zeros(1, 1, dtype=torch.long)
        with tagged:
            start = time.perf_counter()
            for _ in range(STEPS):
                self._step(token, cache)
            return (time.perf_counter() - start) / STEPS

    @property
    def hooks(self) -> int:
        """How many are on the model."""
        modules = list(self._model.modules())
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    def _step(self, ids: torch.Tensor, cache: Any) -> None:
        self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)


def measured(steps: Steps, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step, by name, round by round."""
    found: dict[str, list[float]] = {name: [] for name in MARKERS}
    for make in MARKERS.values():  # warm, and so that `after` is after
        steps.seconds(make() if make else None)
    for number in range(rounds):
        names = list(MARKERS)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            make = MARKERS[name]
            found[name].append(steps.seconds(make() if make else None))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    torch.set_num_threads(1)  # a step is small, and other threads come late on a busy machine
    steps = Steps()
    found = measured(steps, parser.parse_args().rounds)
    print(f"step without tags: {1e3 * np.median(found['none']):.2f} ms; hooks left: {steps.hooks}")
    for name, seconds in found.items():
        low, middle, high = np.percentile(np.divide(seconds, found["none"]), [25, 50, 75])
        fastest = min(seconds) / min(found["none"])
        print(f"{name:>16}: {middle:.3f} [{low:.3f}, {high:.3f}], fastest {fastest:.3f}")


if __name__ == "__main__":
    main()
