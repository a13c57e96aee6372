"""Scans of small models over tokens, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fp8scope.observe.scan import Events, Scan, ScanOptions, Subject
from fp8scope.profile.layout import SAMPLE_COLUMNS
from fp8scope.profile.partial import Partials
from fp8scope.profile.record import Profile
from fp8scope.runtime.loading import model_identity
from fp8scope.runtime.structure import discover
from fp8scope.runtime.text import Calibration, calibration_of_tokens
from tests import models

LENGTHS = {"prose": (12, 7, 1), "code": (9, 36)}


def sequences(lengths: Mapping[str, Sequence[int]] = LENGTHS) -> tuple[list[str], list[Tensor]]:
    """Tags and tokens of ragged sequences, in the order of their samples."""
    tags = [tag for tag, sizes in lengths.items() for _ in sizes]
    sizes = [size for sizes in lengths.values() for size in sizes]
    return tags, [models.token_ids(1, size, seed)[0] for seed, size in enumerate(sizes)]


def calibration(lengths: Mapping[str, Sequence[int]] = LENGTHS) -> Calibration:
    tags, tokens = sequences(lengths)
    return calibration_of_tokens(tags, [t.numpy().astype(np.int32) for t in tokens])


def subject(model: nn.Module, text: Calibration | None = None, tokenizer: Any = None) -> Subject:
    return Subject(
        model,
        tokenizer,
        {},
        model_identity("small", model, "", None),
        discover(model),
        text or calibration(),
    )


def run(
    model: nn.Module,
    *,
    record: str = "standard",
    batch_tokens: int = 1,
    text: Calibration | None = None,
) -> Profile:
    """A scan; by default every sequence is a batch by itself."""
    options = ScanOptions(record, batch_tokens, keep_every=1e9)
    return Scan(subject(model, text), options).run()


class StopAfter:
    """Events that ask the scan to stop once `batches` are done."""

    def __init__(self, batches: int) -> None:
        self.reached = False
        self.batches = batches
        self.events = Events(batch=self._batch, stop=lambda: self.reached)

    def _batch(self, done: int, total: int, tokens: int) -> None:
        self.reached = done >= self.batches


def scan_with(
    what: Subject,
    options: ScanOptions,
    partials: Partials | None = None,
    events: Events | None = None,
    resume: Profile | None = None,
) -> Profile:
    return Scan(what, options, events or Events(), partials).run(resume)


def in_dtype(name: str, dtype: torch.dtype, seed: int = 0, **changes: Any) -> nn.Module:
    model: Any = models.build(name, seed, **changes)
    converted: nn.Module = model.to(dtype)
    return converted


def arrays(profile: Profile) -> dict[str, Any]:
    """Every array of a profile by a name, environment and settings left out."""
    found: dict[str, Any] = {}
    for kind in ("sites", "weights", "experts", "expert_weights"):
        for key, record in sorted(getattr(profile, kind).items()):
            for field in fields(record):
                value = getattr(record, field.name)
                if isinstance(value, np.ndarray):
                    found[f"{kind} {key} {field.name}"] = value
    for table in ("samples", "batches", "excerpts"):
        for name, column in getattr(profile, table).items():
            found[f"{table} {name}"] = column
    if profile.sensitivity is not None:
        numbers = vars(profile.sensitivity).items()
        found |= {f"sensitivity {k}": v for k, v in numbers if isinstance(v, np.ndarray)}
    assert set(SAMPLE_COLUMNS) <= {name.removeprefix("samples ") for name in found}
    return found


def assert_identical(got: Profile, want: Profile) -> None:
    """Bit for bit, aliases, tags and notes included."""
    mine, theirs = arrays(got), arrays(want)
    assert mine.keys() == theirs.keys()
    for name, array in theirs.items():
        assert mine[name].dtype == array.dtype, name
        assert mine[name].tobytes() == array.tobytes(), name
    for name in ("model", "settings", "tags", "notes", "complete", "progress"):
        assert getattr(got, name) == getattr(want, name), name
    assert dict(got.aliases) == dict(want.aliases)
    assert got.structure == want.structure
    if got.sensitivity and want.sensitivity:
        assert got.sensitivity.rows == want.sensitivity.rows
