"""What a build costs, read back, beside the same plan by fake quantization.

    python -m tests.bench.round_trips

Plans mix FP8 per tensor, per token and smoothed with BF16, and the KV cache is FP8 (but for
transformers, which reads compressed-tensors alone). KL in nats per token on held-out text, or of
random models on random tokens.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from transformers import AutoModelForCausalLM

from fp8scope.build.order import Format
from fp8scope.runtime.fp8.linear import Gemm
from tests.build.test_round_trip import TRAINED, built, mix_of, reference

MODELS = ("llama", "mixtral", "phi3", *TRAINED, "demo")


def row(name: str, form: Format, dtype: str, folder: Path) -> dict[str, float]:
    """KL of the plan, and of the build by each way of running it."""
    plan, made = built(name, form, folder, mix_of(name, form), dtype)
    known = reference(name, dtype)
    found = {"plan": known.of_plan(plan)}
    found |= {gemm: known.of_build(made.folder, gemm) for gemm in get_args(Gemm)}
    return found


def by_transformers(name: str, folder: Path) -> dict[str, float]:
    """The same of compressed-tensors with the KV cache in BF16, loaded by transformers."""
    plan, made = built(name, "compressed-tensors", folder, cache=False)
    loader: Any = AutoModelForCausalLM
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = loader.from_pretrained(made.folder).eval()
    known = reference(name)
    return {"plan": known.of_plan(plan), "transformers": known.of_model(model)}


def main() -> None:
    """Print the tables."""
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as folder:
        runs = [(name, form, "float32") for name in MODELS for form in get_args(Format)]
        runs += [("phi3", form, "bfloat16") for form in get_args(Format)]
        for number, (name, form, dtype) in enumerate(runs):
            place = Path(folder) / str(number)
            place.mkdir()
            values = row(name, form, dtype, place)
            print("|", " | ".join([name, dtype, form, *(f"{v:.6f}" for v in values.values())]), "|")
        for name in ("llama", "phi3", *TRAINED):
            place = Path(folder) / f"transformers-{name}"
            place.mkdir()
            values = by_transformers(name, place)
            print("|", " | ".join([name, "float32", *(f"{v:.6f}" for v in values.values())]), "|")


if __name__ == "__main__":
    main()
