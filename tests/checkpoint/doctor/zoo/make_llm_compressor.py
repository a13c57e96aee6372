"""Checkpoints by llm-compressor, in an environment of its own (it asks for another transformers):

python -m venv llmc
llmc/bin/pip install llmcompressor==0.14.0.1
PYTHONPATH=. llmc/bin/python -m tests.checkpoint.doctor.zoo.make_llm_compressor FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modeling.moe.linearize import load_quantizable_moe
from llmcompressor.modifiers.quantization import QuantizationModifier
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.checkpoint.doctor.zoo.tiny_models import VOCAB, build, empty, files, token_ids

KV_CACHE = {
    "num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True,
}  # fmt: skip
MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "llm-compressor-static": (
        "llama_short",
        {"scheme": "FP8", "ignore": ["lm_head", "re:.*layers.0.mlp.down_proj$"]},
    ),
    "llm-compressor-dynamic": ("qwen2", {"scheme": "FP8_DYNAMIC", "ignore": ["lm_head"]}),
    "llm-compressor-block": ("llama_wide", {"scheme": "FP8_BLOCK", "ignore": ["lm_head"]}),
    "llm-compressor-kv": (
        "llama_short",
        {"scheme": "FP8", "ignore": ["lm_head"], "kv_cache_scheme": KV_CACHE},
    ),
    "llm-compressor-mixtral": (
        "mixtral",
        {"scheme": "FP8_DYNAMIC", "ignore": ["lm_head", "re:.*gate$"]},
    ),
}


def _tokenizer() -> Any:
    """Asked for along with a dataset, even one of ids; not saved."""
    words = {f"<{number}>": number for number in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<0>"))  # noqa: S106
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, pad_token="<0>")  # noqa: S106


def _quantize(model: Any, settings: dict[str, Any]) -> None:
    recipe = QuantizationModifier(targets="Linear", **settings)
    if settings["scheme"] != "FP8":
        oneshot(model=model, recipe=recipe)
        return
    ids = token_ids()
    rows = {"input_ids": ids.tolist(), "attention_mask": ids.ne(-1).long().tolist()}
    oneshot(
        model=model,
        recipe=recipe,
        processor=_tokenizer(),
        dataset=Dataset.from_dict(rows),
        num_calibration_samples=len(ids),
    )


def main(folder: Path) -> None:
    for name, (model_name, settings) in MADE.items():
        target = empty(folder / name)
        with TemporaryDirectory() as source:
            build(model_name).save_pretrained(source)
            with load_quantizable_moe():
                model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
            _quantize(model, settings)
            model.save_pretrained(target, save_compressed=True)
        print(*files(target), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
