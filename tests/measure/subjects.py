"""Small random models with their profile, and text that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from fp8scope.core.choices import Choices, Kind, Term
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.measure.measuring import Subject
from fp8scope.runtime.loading import model_identity
from fp8scope.runtime.text import Calibration, calibration_of_tokens
from tests import models
from tests.observe.quantized_models import Prepared, prepared

LENGTHS: dict[str, Sequence[int]] = {"prose": (12, 7, 9, 12), "code": (9, 20, 5)}
CHOICES = Choices(DEFAULT_CANDIDATES)


@dataclass(frozen=True)
class Plan:
    """What a planner gives."""

    terms: Sequence[Term]
    kl: float = 0.01
    error: float = 0.001


def text(lengths: Mapping[str, Sequence[int]] = LENGTHS, seed: int = 500) -> Calibration:
    tags = [tag for tag, sizes in lengths.items() for _ in sizes]
    sizes = [size for of_tag in lengths.values() for size in of_tag]
    return calibration_of_tokens(
        tags,
        [
            models.token_ids(1, size, seed + i)[0].numpy().astype(np.int32)
            for i, size in enumerate(sizes)
        ],
    )


@cache
def subject(name: str = "llama", dtype: torch.dtype = torch.float32) -> Subject:
    """Shared: do not change its model. Batches of 24 tokens."""
    what = prepared(name, dtype)
    return of(what)


def of(what: Prepared, held_out: Calibration | None = None) -> Subject:
    profile = what.profile
    profile.settings["batch_tokens"] = 24
    identity: dict[str, Any] = model_identity("small", what.model, "", None)
    return Subject(what.model, identity, profile, held_out or text())


def whole(what: Subject, candidate: str = "fp8_tensor") -> tuple[Term, ...]:
    """Every group of the blocks in a candidate."""
    from fp8scope.runtime.quantized import QuantizedParts

    parts = QuantizedParts.of(what.model, what.profile)
    rows = CHOICES.rows(what.profile.structure, parts.units)
    plain = (row.terms for row in rows if row.kind is Kind.MODEL)
    return next(terms for terms in plain if {t.candidate for t in terms} == {candidate})


def smoothed_with_caches(what: Subject) -> tuple[Term, ...]:
    """What can be smoothed is, the rest is per tensor, and the caches are FP8."""
    from fp8scope.runtime.quantized import QuantizedParts

    parts = QuantizedParts.of(what.model, what.profile)
    rows = CHOICES.rows(what.profile.structure, parts.units)
    found = [row.terms for row in rows if row.kind is Kind.MODEL]
    smooth = next((t for t in found if any(term.alpha for term in t)), found[0])
    return (*smooth, *(Term(layer.group, "fp8_tensor") for layer in parts.layers))
