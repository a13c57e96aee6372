"""Are the scores right? Predicted against measured KL, group by group, ModelOpt's scores beside.

    python tests/bench/sensitivity.py [--model NAME …] [--dtype float32] [--candidates fp8_tensor]

The small trained models of ../shared/data on 96 sequences of 128 tokens, prose, technical text and
code in turn. Every row (a group, a layer's KV cache, a fold pair, the whole model) is predicted by
one backward over these sequences and measured on them by itself. By kind and candidate: Spearman's
ρ of predictions and measurements, predicted/measured (median, least, most, of the sum), and how
often the measured value lies within two standard errors. ModelOpt's `auto_quantize` scores the same
groups over the same sequences, with true labels; its scores are in no unit, so only ρ is given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from fp8scope.analyze.sensitivity import Score, Scores
from fp8scope.core.choices import Choices, Kind
from fp8scope.observe.api import subject_in_memory
from fp8scope.observe.scan import Scan, ScanOptions
from fp8scope.observe.sensitivity import SensitivityOptions
from fp8scope.profile.record import Profile

DATA = Path(__file__).parents[2].parent / "shared" / "data"
MODELS = ("stories260K", "babyllama361")
SEQUENCES, LENGTH, ROWS = 96, 128, 16


def texts(name: str) -> dict[str, Tensor]:
    """Ids [32, 128] of each text, from its middle."""
    tokenizer = AutoTokenizer.from_pretrained(DATA / "models" / name)
    found, paths = {}, sorted((DATA / "text").iterdir())
    for path in paths:
        text = path.read_text(encoding="utf-8")[20_000:60_000]
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        each = SEQUENCES // len(paths)
        rows = torch.tensor(ids[: each * (LENGTH - 1)]).view(each, LENGTH - 1)
        first = torch.full((each, 1), tokenizer.bos_token_id)
        found[path.stem.partition("_")[0]] = torch.cat((first, rows), dim=1)
    return found


def load(name: str, dtype: torch.dtype) -> Any:
    source: Any = AutoModelForCausalLM
    return source.from_pretrained(DATA / "models" / name, dtype=dtype).eval()


def scanned(model: Any, of: dict[str, Tensor], candidates: tuple[str, ...]) -> Profile:
    batches = [{"input_ids": ids, "tag": tag} for tag, ids in of.items()]
    second = SensitivityOptions(SEQUENCES, Choices(candidates), measure_all=True, required=True)
    options = ScanOptions(batch_tokens=ROWS * LENGTH, sensitivity=second)
    return Scan(subject_in_memory(model, batches), options).run()


def against_measured(scores: Sequence[Score]) -> dict[str, Any]:
    measured = np.array([score.measured.kl for score in scores if score.measured])
    row: dict[str, Any] = {"rows": len(scores), "largest": round(float(measured.max()), 5)}
    for form in ("estimate", "check"):
        found = [getattr(score, form) for score in scores]
        kl, error = (np.array([getattr(nats, of) for nats in found]) for of in ("kl", "error"))
        ratio = kl / measured
        row[form] = {
            "spearman": round(float(spearmanr(kl, measured)[0]), 3) if len(kl) > 2 else None,
            "median": round(float(np.median(ratio)), 3),
            "least": round(float(ratio.min()), 2),
            "most": round(float(ratio.max()), 2),
            "sum": round(float(kl.sum() / measured.sum()), 3),
            "rms": round(float(np.sqrt(np.mean((ratio - 1) ** 2))), 3),
            "within_2_errors": round(float(np.mean(np.abs(kl - measured) <= 2 * error)), 2),
        }
    return row


def modelopt_search(
    model: Any, ids: Tensor, method: str, disabled: Sequence[str] = ()
) -> dict[str, Any]:
    """What ModelOpt found about FP8 or BF16 for each of its groups: its scores, and how to go on.

    disabled: globs of layers that it leaves alone.
    """
    import modelopt.torch.quantization as mtq

    def loss(output: Any, data: dict[str, Tensor]) -> Tensor:
        flat = output.logits[:, :-1].flatten(0, 1).float()
        return torch.nn.functional.cross_entropy(flat, data["input_ids"][:, 1:].flatten())

    batches = [{"input_ids": part} for part in ids.split(ROWS)]
    _, state = mtq.auto_quantize(
        model,
        constraints={"effective_bits": 12.0},
        quantization_formats=[mtq.FP8_DEFAULT_CFG],
        data_loader=batches,
        forward_step=lambda m, data: m(**data) if method == "gradient" else m(**data).logits,
        loss_func=loss,
        num_calib_steps=len(batches),
        num_score_steps=len(batches),
        method=method,
        disabled_layers=list(disabled) or None,
        verbose=False,
    )
    return dict(state)


def modelopt_scores(model: Any, ids: Tensor, method: str) -> dict[str, float]:
    """ModelOpt's FP8 score of each of its groups, by their first linear."""
    found = {}
    for stats in modelopt_search(model, ids, method)["candidate_stats"].values():
        formats = dict(zip(map(str, stats["formats"]), stats["scores"], strict=True))
        score = next(value for name, value in formats.items() if "FP8" in name)
        found[stats["module_names"][0]] = float(score)
    return found


def beside_modelopt(name: str, dtype: torch.dtype, profile: Profile, ids: Tensor) -> dict[str, Any]:
    scores = Scores(profile)
    first = {group.members[0]: group.name for group in profile.structure.groups}
    result = {}
    for method in ("gradient", "kl_div"):
        theirs = modelopt_scores(load(name, dtype), ids, method)
        both = {
            group: (theirs[member], score.measured.kl, score.estimate.kl)
            for member, group in first.items()
            if member in theirs and (score := scores.candidates(group)["fp8_tensor"]).measured
        }
        columns = np.array(list(both.values()))
        result[method] = {
            "groups": len(both),
            "spearman": round(float(spearmanr(columns[:, 0], columns[:, 1])[0]), 3),
            "ours, same groups": round(float(spearmanr(columns[:, 2], columns[:, 1])[0]), 3),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", nargs="*", default=MODELS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--candidates", nargs="*", default=["fp8_tensor", "fp8_token", "fp8_block", "fp8_smooth"]
    )
    parser.add_argument("--no-modelopt", action="store_true")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        print(f"skipped: no {DATA}")
        return
    dtype = getattr(torch, arguments.dtype)
    for name in arguments.model:
        of = texts(name)
        profile = scanned(load(name, dtype), of, tuple(arguments.candidates))
        scores = Scores(profile)
        for kind in Kind:
            by_candidate: dict[str, list[Score]] = {}
            for score in scores.kind(kind):
                by_candidate.setdefault(score.row.terms[-1].candidate, []).append(score)
            for candidate, rows in by_candidate.items():
                line = {"model": name, "kind": kind, "candidate": candidate}
                print(json.dumps(line | against_measured(rows)), flush=True)
        if not arguments.no_modelopt:
            found = beside_modelopt(name, dtype, profile, torch.cat(list(of.values())))
            print(json.dumps({"model": name, "modelopt": found}), flush=True)


if __name__ == "__main__":
    main()
