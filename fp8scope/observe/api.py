"""`fp8scope.scan(model, batches)`: a scan of a model in memory, from Python."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fp8scope.errors import BadText, OutputExists
from fp8scope.observe.scan import Scan, ScanOptions, Subject
from fp8scope.profile.record import Profile
from fp8scope.profile.writer import write_profile
from fp8scope.runtime.loading import model_identity
from fp8scope.runtime.structure import discover
from fp8scope.runtime.text import Calibration, calibration_of_tokens

BatchLike = Tensor | Mapping[str, Any]


def scan(
    model: nn.Module,
    batches: Iterable[BatchLike],
    *,
    tokenizer: Any = None,
    record: str = "standard",
    output: str | Path | None = None,
    force: bool = False,
) -> Profile:
    """Scan a transformers causal LM that is already loaded.

    batches: token ids, int64 [B, T] tensors, or mappings with `input_ids`, optionally
    `attention_mask` (padding on the right only) and `tag` (a string). With a tokenizer the
    profile holds the text around the largest values. `output` writes the profile there.
    The model is left as it was: in its mode, without hooks.

    Raises BadText (no tokens, padding on the left), BadModel (inf or NaN), OutputExists.
    """
    path = Path(output) if output is not None else None
    if path is not None and path.exists() and not force:
        raise OutputExists(f"{path} exists already", "give force=True or another path")
    stated: Any = getattr(model, "config", None)
    config = stated.to_dict() if stated is not None else {}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    subject = Subject(
        model=model,
        tokenizer=tokenizer,
        config=json.loads(json.dumps(config, default=str)),
        identity=model_identity("in memory", model, f"memory:{digest.hexdigest()}", None),
        structure=discover(model),
        calibration=_calibration(batches),
    )
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        profile = Scan(subject, ScanOptions(record=record)).run()
    finally:
        for module, training in modes.items():
            module.training = training
    if path is not None:
        write_profile(profile, path)
    return profile


def _calibration(batches: Iterable[BatchLike]) -> Calibration:
    tags: list[str] = []
    tokens: list[np.ndarray[Any, Any]] = []
    for batch in batches:
        fields: Mapping[str, Any] = {"input_ids": batch} if isinstance(batch, Tensor) else batch
        ids = fields["input_ids"]
        mask = fields.get("attention_mask")
        for row in range(len(ids)):
            tags.append(str(fields.get("tag", "text")))
            length = ids.shape[1] if mask is None else _text_length(mask[row])
            tokens.append(ids[row, :length].cpu().numpy().astype(np.int32))
    return calibration_of_tokens(tags, tokens)


def _text_length(mask: Tensor) -> int:
    length = int(mask.sum())
    if not torch.equal(mask[:length].bool(), torch.ones_like(mask[:length], dtype=torch.bool)):
        raise BadText("a batch is padded on the left", "pad on the right (padding_side='right')")
    return length
