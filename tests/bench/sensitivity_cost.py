"""What the second pass of a scan costs in plain forwards over the same tokens, ModelOpt beside.

    python tests/bench/sensitivity_cost.py [--dtype bfloat16] [--rounds 5] [--modelopt]

The random Llama of `scan_overhead.py`, 8×512 tokens. The first candidate is fp8_tensor for every
group (a forward, a backward, the gradient in every input, one matmul and one quantization a
group); each further one is added to it. A smoothing candidate is one α: it scores the groups that
it smooths, and those that it is folded into, again. `default` is all that a scan scores unless told
otherwise. ModelOpt's gradient and kl_div search one format (FP8 or nothing) over the same tokens.
Contenders take turns; the median of the ratios to the plain forward of the same round is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fp8scope.analyze.scales import Scales
from fp8scope.core.choices import Choices
from fp8scope.core.gemms import units
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.observe.api import scan
from fp8scope.observe.gradients import Gradients
from fp8scope.observe.labels import draws
from fp8scope.observe.sensitivity import kl_of_scores
from fp8scope.observe.term_scores import TermScores
from fp8scope.runtime.batches import Batch
from fp8scope.runtime.linears import linear_weights
from fp8scope.runtime.quantized import QuantizedCache, QuantizedGemm
from tests.bench.scan_overhead import LENGTH, ROWS, build, fresh_ids, plain

STEPS = {
    "fp8_tensor": Choices(("fp8_tensor",)),
    "+ fp8_token": Choices(("fp8_tensor", "fp8_token")),
    "+ fp8_block": Choices(("fp8_tensor", "fp8_block")),
    "+ fp8_smooth": Choices(("fp8_tensor", "fp8_smooth"), alphas=(0.5,)),
    "+ int8_tensor": Choices(("fp8_tensor", "int8_tensor")),
    "default": Choices(DEFAULT_CANDIDATES),
}


def contenders(model: PreTrainedModel) -> dict[str, Callable[[], None]]:
    profile = scan(model, [fresh_ids()], sensitivity="none")
    scales, weights = Scales(profile), linear_weights(model)
    found = units(profile.structure)
    layers = profile.structure.kv_layers
    gemms = {g.members: QuantizedGemm(g, weights, scales) for unit in found for g in unit.gemms}
    caches = {layer.layer: QuantizedCache(layer, scales) for layer in layers}
    uniform = [draws(f"{row:x}", LENGTH, 0) for row in range(ROWS)]

    def score(choices: Choices) -> None:
        rows = choices.rows(profile.structure, found)
        terms = TermScores(gemms, caches, [term for row in rows for term in row.terms])
        ids = fresh_ids()
        with Gradients(model, [g.gemm for g in gemms.values()], terms, cached=True) as gradients:
            gradients.run(ids, uniform)
        batch = Batch(0, tuple(range(ROWS)), ids, (LENGTH,) * ROWS)
        kl_of_scores(rows, terms.scores, batch)

    return {name: partial(score, choices) for name, choices in STEPS.items()}


def modelopt(dtype: torch.dtype, method: str) -> None:
    """ModelOpt's search of FP8 or nothing for each group, over as many tokens."""
    import modelopt.torch.quantization as mtq

    model: Any = build(dtype)
    batch = {"input_ids": fresh_ids()}

    def loss(output: Any, data: dict[str, Tensor]) -> Tensor:
        flat = output.logits[:, :-1].flatten(0, 1).float()
        return torch.nn.functional.cross_entropy(flat, data["input_ids"][:, 1:].flatten())

    mtq.auto_quantize(
        model,
        constraints={"effective_bits": 9.0},
        quantization_formats=[mtq.FP8_DEFAULT_CFG],
        data_loader=[batch],
        forward_step=lambda m, data: m(**data) if method == "gradient" else m(**data).logits,
        loss_func=loss,
        num_calib_steps=1,
        num_score_steps=1,
        method=method,
        verbose=False,
    )


def timed(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modelopt", action="store_true")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    model = build(dtype)
    steps = {"plain": plain(model), **contenders(model)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(arguments.rounds + 1):
        for name, step in steps.items():
            taken = timed(step)
            if turn:  # the first turn warms up
                times[name].append(taken)
    if arguments.modelopt:
        for method in ("gradient", "kl_div"):
            times[f"modelopt {method}"] = [timed(partial(modelopt, dtype, method))]
    plain_s = statistics.median(times["plain"])
    forwards = {name: statistics.median(taken) / plain_s for name, taken in times.items()}
    further = {n: forwards[n] - forwards["fp8_tensor"] for n in STEPS if n.startswith("+")}
    print(
        json.dumps(
            {
                "dtype": arguments.dtype,
                "plain_seconds": plain_s,
                "forwards": {name: round(ratio, 2) for name, ratio in forwards.items()},
                "each_further_candidate": {name: round(r, 2) for name, r in further.items()},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
