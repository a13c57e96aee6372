"""The demo as it is built: all FP8, as planned, and FP8 without the plants, on held-out text.

    python -m tests.bench.built

Each checkpoint is built with ModelOpt, read back and run through `torch._scaled_mm`. KL is that
against the demo's own logits in BF16, which the reference without plants shares bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fp8scope.artefacts.plan_file import write_plan
from fp8scope.build.api import build_checkpoint
from fp8scope.demo.build import same_logits
from fp8scope.demo.files import DEMO_MODEL, demo_held_out, demo_sources
from fp8scope.demo.plant import scale_norm, scale_product
from fp8scope.observe.divergence import moved
from fp8scope.observe.scan import Scan, ScanOptions, Subject
from fp8scope.observe.sensitivity import SensitivityOptions
from fp8scope.plan.make import make_plan
from fp8scope.plan.settings import PlanSettings
from fp8scope.profile.record import Profile
from fp8scope.runtime.fp8.checkpoint import load_fp8
from fp8scope.runtime.loading import LoadOptions, load
from fp8scope.runtime.structure import discover
from fp8scope.runtime.text import build_calibration

EVERYTHING = PlanSettings(max_kl=100.0, candidates=("fp8_tensor",))
CONTEXT = 256


@dataclass(frozen=True)
class Cost:
    """Of one build on one tag: KL in nats per token against BF16, and perplexity."""

    kl: float
    perplexity: float


Costs = Mapping[str, Cost]


def unplanted(folder: Path) -> Path:
    """The demo without its plants, saved in `folder`: the same logits, bit for bit."""
    loaded = load(str(DEMO_MODEL), LoadOptions())
    model: Any = loaded.model
    plants = json.loads((DEMO_MODEL / "manifest.json").read_text())["plants"]
    for plant in plants:
        layer, channel, power = plant["layer"], plant["channel"], plant["log2_factor"]
        mlp = model.model.layers[layer].mlp
        if plant["kind"] == "product":
            scale_product(model, layer, channel, -power)
        elif plant["kind"] == "neuron":
            with torch.no_grad():
                mlp.gate_proj.weight[channel] = mlp.up_proj.weight[channel] = 0
        else:
            before_mlp = any("mlp" in name for name in plant["groups"][0])
            norm = "post_attention_layernorm" if before_mlp else "input_layernorm"
            scale_norm(model, layer, norm, channel, -power)
    original = load(str(DEMO_MODEL), LoadOptions()).model
    if not same_logits(original, model, [_batch()], torch.bfloat16):
        raise SystemExit("without its plants the demo has other logits")
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def scanned(folder: Path, samples: int = 128) -> Profile:
    """A scan of a demo on `samples` sequences of its text."""
    loaded = load(str(folder), LoadOptions())
    text = build_calibration(
        demo_sources(), loaded.tokenizer, samples=samples, seq_len=CONTEXT, context=CONTEXT,
        vocab_size=None,
    )  # fmt: skip
    structure = discover(loaded.model, loaded.tensor_shapes)
    subject = Subject(
        loaded.model, loaded.tokenizer, loaded.config, loaded.identity, structure, text
    )
    return Scan(subject, ScanOptions(sensitivity=SensitivityOptions())).run()


def built(model: Path, profile: Profile, settings: PlanSettings, output: Path) -> Path:
    """The checkpoint of the profile's plan under `settings`."""
    path = output.with_suffix(".json")
    write_plan(*make_plan(profile, settings), path)
    return build_checkpoint(path, output, model=str(model)).folder


def costs(folder: Path | None, held_out: Mapping[str, list[Tensor]]) -> Costs:
    """Of the checkpoint `folder`, or of the demo in BF16 itself, by tag."""
    true: Any = load(str(DEMO_MODEL), LoadOptions()).model
    other = load_fp8(folder).logits if folder else lambda ids: true(input_ids=ids).logits
    found = {}
    for tag, batches in held_out.items():
        kl = loss = tokens = predicted = 0.0
        for ids in batches:
            with torch.no_grad():
                sums = moved(true(input_ids=ids).logits, other(ids), ids, [ids.shape[1]])
            kl, tokens = kl + float(sums.kl.sum()), tokens + ids.shape[1]
            loss, predicted = loss + float(sums.other_nats.sum()), predicted + ids.shape[1] - 1
        found[tag] = Cost(kl / tokens, math.exp(loss / predicted))
    return found


def held_out_text(samples: int) -> dict[str, list[Tensor]]:
    """Sequences [1, T] by tag that neither a scan nor the training has read."""
    tokenizer = load(str(DEMO_MODEL), LoadOptions()).tokenizer
    text = build_calibration(
        demo_held_out(), tokenizer, samples=samples, seq_len=CONTEXT, context=CONTEXT,
        vocab_size=None,
    )  # fmt: skip
    found: dict[str, list[Tensor]] = {tag: [] for tag in text.tags}
    for sample in text.samples:
        found[text.tags[sample.tag]].append(torch.from_numpy(sample.tokens.astype(np.int64))[None])
    return found


def measured(folder: Path, calibrated: int = 128, held_out: int = 64) -> dict[str, Costs]:
    """BF16, all FP8, planned, and the reference in FP8; checkpoints are built below `folder`.

    `calibrated`, `held_out`: sequences that are scanned, and measured on.
    """
    profile, text = scanned(DEMO_MODEL, calibrated), held_out_text(held_out)
    without = unplanted(folder / "unplanted")
    builds = {
        "BF16": None,
        "all FP8": built(DEMO_MODEL, profile, EVERYTHING, folder / "all"),
        "planned": built(DEMO_MODEL, profile, PlanSettings(), folder / "planned"),
        "all FP8, without the plants": built(
            without, scanned(without, calibrated), EVERYTHING, folder / "reference"
        ),
    }
    return {name: costs(path, text) for name, path in builds.items()}


def _batch() -> Tensor:
    draw = np.random.default_rng(0)
    return torch.from_numpy(draw.integers(3, 1000, (4, CONTEXT)))


def main() -> None:
    """Print the table."""
    with TemporaryDirectory() as folder:
        found = measured(Path(folder))
    tags = list(found["BF16"])
    print("|", *(f"| {tag}" for tag in tags), "|")
    for name, by_tag in found.items():
        print(f"| {name}: perplexity", *(f"| {by_tag[t].perplexity:.2f}" for t in tags), "|")
        print(f"| {name}: KL", *(f"| {by_tag[t].kl:.4f}" for t in tags), "|")


if __name__ == "__main__":
    main()
