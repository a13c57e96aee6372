"""Is the histogram as good as the tensor? Saturation, underflow and MSE on real activations.

    python tests/bench/exactness.py [--model FOLDER --text FILE ...]

Keeps every linear's input of a scan, quantizes all of it with torch's float8_e4m3fn, and compares
with what the profile's histogram says, under scale = amax / 448 and under an eighth of it (so that
something saturates). Without arguments: the real models of ../shared/data, where they are.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from fp8scope.core.error import decibel, quantization_error
from fp8scope.core.formats import E4M3
from fp8scope.core.sites import Role, Site
from fp8scope.observe.scan import Events, Scan, ScanOptions, Subject
from fp8scope.runtime.batches import plan_batches
from fp8scope.runtime.linears import named_linears
from fp8scope.runtime.loading import DTYPES, LoadOptions, context_length, load
from fp8scope.runtime.sources import Source
from fp8scope.runtime.structure import discover
from fp8scope.runtime.text import build_calibration

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TEXT = ("prose_pride_and_prejudice.txt", "technical_rust_book.md", "code_thealgorithms_python.txt")
SHRINK = (1, 8)


def direct(tensors: list[Tensor], scale: np.float32) -> tuple[int, int, float, float]:
    """Saturated, underflowed, signal and noise of quantizing the tensors themselves."""
    saturated = underflowed = 0
    signal = noise = 0.0
    for tensor in tensors:
        x = tensor.float()
        y = x / float(scale)
        q = y.clamp(-448, 448).to(torch.float8_e4m3fn).float() * float(scale)
        saturated += int((y.abs() > 464).sum())  # 464 lies between 448 and the next step, 480
        underflowed += int(((q == 0) & (x != 0)).sum())
        signal += float(x.double().square().sum())
        noise += float((x.double() - q.double()).square().sum())
    return saturated, underflowed, signal, noise


def scan_and_keep(
    model: Path, texts: list[Path], dtype: str, samples: int
) -> tuple[Any, dict[Site, list[Tensor]]]:
    """A profile, and every linear's input without padding."""
    loaded = load(str(model), LoadOptions(dtype=dtype))
    text = build_calibration(
        [Source(path.stem, str(path)) for path in texts],
        loaded.tokenizer,
        samples=samples,
        seq_len=256,
        context=context_length(loaded.model),
    )
    subject = Subject(
        loaded.model,
        loaded.tokenizer,
        loaded.config,
        loaded.identity,
        discover(loaded.model, loaded.tensor_shapes),
        text,
    )
    kept: dict[Site, list[Tensor]] = defaultdict(list)
    batches, now = plan_batches(text, 4096), 0

    def batch_done(done: int, total: int, tokens: int) -> None:
        nonlocal now
        now = done

    def keep(site: Site) -> Any:
        def hook(_: Any, args: tuple[Tensor, ...]) -> None:
            for row, sample in enumerate(batches[now]):
                kept[site].append(args[0][row, : len(text.samples[sample].tokens)].clone())

        return hook

    handles = [
        module.register_forward_pre_hook(keep(Site(name, Role.INPUT)))
        for name, module in named_linears(loaded.model).items()
    ]
    profile = Scan(subject, ScanOptions(batch_tokens=4096), Events(batch=batch_done)).run()
    for handle in handles:
        handle.remove()
    return profile, kept


def compare(model: Path, texts: list[Path], dtype: str, samples: int) -> dict[str, Any]:
    """The worst differences over all sites and both scales."""
    profile, kept = scan_and_keep(model, texts, dtype, samples)
    mismatches = saturated_in_all = elements = 0
    worst_mse = worst_rate = 0.0
    worst_db = dict.fromkeys(SHRINK, 0.0)
    for site, tensors in kept.items():
        histogram = profile.site(site).magnitudes()
        elements += histogram.elements
        for shrink in SHRINK:
            scale = np.float32(E4M3.scale(histogram.amax) / np.float32(shrink))
            want = direct(tensors, scale)
            got = quantization_error(histogram, E4M3, float(scale))
            saturated_in_all += want[0]
            counts = (got.saturated - want[0], got.underflowed - want[1])
            mismatches += sum(off != 0 for off in counts)
            worst_rate = max(worst_rate, max(map(abs, counts)) / histogram.elements)
            worst_mse = max(worst_mse, abs(got.noise - want[3]) / want[3])
            difference = abs(got.sqnr_db - decibel(want[2], want[3]))
            worst_db[shrink] = max(worst_db[shrink], difference)
    return {
        "model": model.name,
        "dtype": dtype,
        "sites": len(kept),
        "elements": elements,
        "saturated": saturated_in_all,
        "count mismatches": mismatches,
        "max count difference, of elements": worst_rate,
        "max relative MSE difference": worst_mse,
        "max SQNR difference, dB, by amax/448/scale": worst_db,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, action="append", default=[])
    parser.add_argument("--text", type=Path, action="append", default=[])
    parser.add_argument("--samples", type=int, default=24)
    arguments = parser.parse_args()
    if not arguments.model and not DATA.is_dir():
        print(f"skipped: no model given, and no {DATA}")
        return
    quiet: Any = transformers.utils.logging
    quiet.disable_progress_bar()
    models = arguments.model or sorted((DATA / "models").iterdir())
    texts = arguments.text or [DATA / "text" / name for name in TEXT]
    for model in models:
        for dtype in DTYPES:
            print(json.dumps(compare(model, texts, dtype, arguments.samples)), flush=True)


if __name__ == "__main__":
    main()
