"""Checkpoints that transformers quantizes and saves: blocks of its own, and torchao's.

    python -m tests.checkpoint.doctor.zoo.make_transformers FOLDER

Both ask for a GPU before they quantize, though their arithmetic runs anywhere; that one question
is left out here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from torchao.quantization import (
    Float8DynamicActivationFloat8WeightConfig,
    PerRow,
    quant_api,
)
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, TorchAoConfig
from transformers.quantizers.quantizer_finegrained_fp8 import FineGrainedFP8HfQuantizer

from tests.checkpoint.doctor.zoo.tiny_models import build, empty, files

MADE: dict[str, tuple[str, Any]] = {
    "transformers-block": ("qwen3_wide", FineGrainedFP8Config),
    "torchao-per-row": (
        "llama_short",
        lambda: TorchAoConfig(Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())),
    ),
}


def _pass(*_: Any, **__: Any) -> None:
    pass


def main(folder: Path) -> None:
    for name, (model_name, config) in MADE.items():
        target = empty(folder / name)
        with (
            TemporaryDirectory() as source,
            patch.object(FineGrainedFP8HfQuantizer, "validate_environment", _pass),
            patch.object(quant_api, "_check_hardware_support", _pass),
        ):
            build(model_name).save_pretrained(source)
            model = AutoModelForCausalLM.from_pretrained(
                source, dtype="auto", quantization_config=config()
            )
            model.save_pretrained(target)
        print(*files(target), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
