"""Make the demo from a trained model: plant, check, measure, write.

    python -m fp8scope.demo.build TRAINED -o fp8scope/demo

TRAINED is the folder that `train.py` wrote. The output gets `model/`, with `manifest.json` (every
plant and what FP8 does, measured), and `text/`. Stops unless the logits are bit-identical to the
reference's in bf16 and in fp32.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from fp8scope.core.histogram import Histogram
from fp8scope.demo import plant
from fp8scope.demo.damage import damage
from fp8scope.demo.files import demo_sources
from fp8scope.demo.plant import HARMLESS, RATIO, Plant
from fp8scope.demo.train import CONTEXT, MARKED, marked_tokens
from fp8scope.observe.rows import row_stats
from fp8scope.runtime.batches import make_batch, plan_batches
from fp8scope.runtime.text import build_calibration

FIRST_TOKEN_LAYER, ONE_TAG_LAYER, NORM_LAYER, PRODUCT_LAYER = 1, 0, 2, 3


def plant_all(
    model: Any, batches: Sequence[Tensor], marks: Sequence[int]
) -> tuple[Any, list[Plant]]:
    """Plant everything in `model`; returns the reference and the list of plants."""
    neurons = {
        layer: plant.least_neuron(down, plant.inputs_of(model, down, batches))
        for layer in (FIRST_TOKEN_LAYER, ONE_TAG_LAYER)
        for down in (model.model.layers[layer].mlp.down_proj,)
    }
    for layer, neuron in neurons.items():
        plant.silence(model, layer, neuron)
    reference = copy.deepcopy(model)
    plants = [
        _fixed_channel(model, batches),
        _product(model, batches),
        _harmless(model, batches),
        *(_neuron(model, batches, layer, neuron, marks) for layer, neuron in neurons.items()),
    ]
    return reference, plants


def _fixed_channel(model: Any, batches: Sequence[Tensor]) -> Plant:
    block = f"model.layers.{NORM_LAYER}.self_attn"
    x = plant.inputs_of(model, model.get_submodule(f"{block}.q_proj"), batches)
    channel, power = _steadiest(x)
    plant.scale_norm(model, NORM_LAYER, "input_layernorm", channel, power)
    readers = [f"{block}.{name}_proj" for name in "qkv"]
    return Plant(
        "fixed channel before attention",
        "one channel of the norm before q, k and v, in every token",
        "norm",
        NORM_LAYER,
        channel,
        power,
        shows=[f"{name} input" for name in readers],
        groups=[readers],
    )


def _product(model: Any, batches: Sequence[Tensor]) -> Plant:
    mlp = f"model.layers.{PRODUCT_LAYER}.mlp"
    x = plant.inputs_of(model, model.get_submodule(f"{mlp}.down_proj"), batches)
    channel, power = _steadiest(x)
    plant.scale_product(model, PRODUCT_LAYER, channel, power)
    return Plant(
        "SwiGLU product",
        "one product of gate and up; up_proj's row that makes it is as large",
        "product",
        PRODUCT_LAYER,
        channel,
        power,
        shows=[f"{mlp}.down_proj input", f"{mlp}.up_proj weight"],
        groups=[[f"{mlp}.gate_proj", f"{mlp}.up_proj"], [f"{mlp}.down_proj"]],
    )


def _harmless(model: Any, batches: Sequence[Tensor]) -> Plant:
    mlp = f"model.layers.{NORM_LAYER}.mlp"
    x = plant.inputs_of(model, model.get_submodule(f"{mlp}.gate_proj"), batches)
    channel, _ = _steadiest(x)
    plant.scale_norm(model, NORM_LAYER, "post_attention_layernorm", channel, HARMLESS)
    return Plant(
        "harmless channel",
        f"one channel {2**HARMLESS} times larger, which E4M3's range holds with ease",
        "norm",
        NORM_LAYER,
        channel,
        HARMLESS,
        groups=[[f"{mlp}.gate_proj", f"{mlp}.up_proj"]],
    )


def _neuron(
    model: Any, batches: Sequence[Tensor], layer: int, neuron: int, marks: Sequence[int]
) -> Plant:
    mlp = f"model.layers.{layer}.mlp"
    products = plant.inputs_of(model, model.get_submodule(f"{mlp}.down_proj"), batches)
    peak = RATIO * histogram(products).rms_body()
    one_tag = layer == ONE_TAG_LAYER
    plant.aim_neuron(model, layer, neuron, marks[one_tag], batches, peak)
    return Plant(
        "one tag's token" if one_tag else "massive activation at the first token",
        f"a neuron that fires at{MARKED[1]!r} alone, a word of support replies"
        if one_tag
        else "a neuron that fires at the first token of every sequence, as attention sinks do",
        "neuron",
        layer,
        neuron,
        0,
        tag="support" if one_tag else "",
        shows=[f"{mlp}.down_proj input"],
        groups=[[f"{mlp}.gate_proj", f"{mlp}.up_proj"], [f"{mlp}.down_proj"]],
    )


def _steadiest(x: Tensor) -> tuple[int, int]:
    """The channel of least amax/rms, and the power of two that takes its amax to RATIO."""
    channel = int((x.abs().amax(0) / x.square().mean(0).sqrt()).argmin())
    amax = float(x[:, channel].abs().max())
    return channel, round(math.log2(RATIO * histogram(x).rms_body() / amax))


def histogram(x: Tensor) -> Histogram:
    """The magnitudes of x [tokens, channels]."""
    stats = row_stats(x, (len(x),))
    amax = float(stats.column_amax.max())
    return Histogram(stats.encoding, stats.histograms[0], int(stats.zeros[0]), amax)


def same_logits(first: Any, second: Any, batches: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Whether two models agree in every bit of every logit."""
    a, b = (copy.deepcopy(model).to(dtype) for model in (first, second))
    with torch.no_grad():
        return all(torch.equal(a(input_ids=x).logits, b(input_ids=x).logits) for x in batches)


def read_batches(model: Any, tokenizer: Any, folder: Path) -> dict[str, list[Tensor]]:
    """The demo's text as a scan reads it: batches of ids by tag."""
    calibration = build_calibration(
        demo_sources(folder),
        tokenizer,
        samples=10_000,
        seq_len=CONTEXT,
        context=CONTEXT,
        vocab_size=model.config.vocab_size,
    )
    texts: dict[str, list[Tensor]] = {tag: [] for tag in calibration.tags}
    for samples in plan_batches(calibration, padding=False):
        batch = make_batch(calibration, samples)
        texts[calibration.tags[batch.tag]].append(batch.input_ids)
    return texts


def main() -> None:
    """Build the demo's files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    source: Any = AutoModelForCausalLM  # transformers' loaders are not typed
    model = source.from_pretrained(given.trained / "model", dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(given.trained / "model")
    texts = read_batches(model, tokenizer, given.trained / "text")
    batches = [ids for parts in texts.values() for ids in parts]
    marks = list(marked_tokens(tokenizer).values())
    reference, plants = plant_all(model, batches, marks)
    for dtype in (torch.bfloat16, torch.float32):
        if not same_logits(model, reference, batches, dtype):
            raise SystemExit(f"the logits changed in {dtype}")
    measured = {"reference": damage(reference, texts), "planted": damage(model, texts)}
    folder = given.output / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    manifest = {"plants": [asdict(each) for each in plants], "measured": measured}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    shutil.copytree(given.trained / "text", given.output / "text", dirs_exist_ok=True)
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
