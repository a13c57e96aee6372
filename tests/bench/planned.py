"""Plans of the small models, and what they cost in text that they were not made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.analyze.ratios import Nats
from fp8scope.core.choices import Choices, Term
from fp8scope.core.gpus import gpu
from fp8scope.core.roofline import Roofline, Workload
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.core.structure import Structure
from fp8scope.observe.api import subject_in_memory
from fp8scope.observe.applied import Applied
from fp8scope.observe.divergence import kl_by_sequence
from fp8scope.observe.scan import Scan, ScanOptions
from fp8scope.observe.sensitivity import SensitivityOptions
from fp8scope.plan.cost import Cost
from fp8scope.plan.planner import Asked, Planner
from fp8scope.profile.record import Profile
from fp8scope.runtime.quantized import QuantizedParts

ROWS = 16
WIDER = 64
"""A step is timed as if every linear were so many times as wide: these models have the widths of a
7B model then. At their own a GEMM is nothing but the reading of its input."""

Texts = Mapping[str, Tensor]
"""Ids [sequences, length] by tag."""


class HeldOut:
    """A scanned model on other text: every tag in as many sequences, all of one length."""

    def __init__(self, model: Any, profile: Profile, texts: Texts) -> None:
        self._applied = Applied.of(model, QuantizedParts.of(model, profile))
        self._tags = [tag for tag, ids in texts.items() for _ in ids]
        self._batches = [part for ids in texts.values() for part in ids.split(ROWS)]
        self._true = [self._applied.logits(ids) for ids in self._batches]
        self._known: dict[frozenset[Term], NDArray[np.float64]] = {}

    def nats(self, terms: Iterable[Term]) -> NDArray[np.float64]:
        """KL of each sequence under these terms, nats per token, [sequences]."""
        key = frozenset(terms)
        if key not in self._known:
            with self._applied.terms(key):
                found = [
                    kl_by_sequence(true, self._applied.logits(ids), [ids.shape[1]] * len(ids))
                    / ids.shape[1]
                    for ids, true in zip(self._batches, self._true, strict=True)
                ]
            self._known[key] = np.concatenate(found)
        return self._known[key]

    def mean(self, nats: NDArray[np.float64]) -> Nats:
        """Over all tags alike; its error from how the sequences of a tag differ."""
        by_tag = [nats[[tag == of for of in self._tags]] for tag in dict.fromkeys(self._tags)]
        errors = [part.std(ddof=1) / math.sqrt(len(part)) for part in by_tag]
        return Nats(
            float(np.mean([part.mean() for part in by_tag])), math.hypot(*errors) / len(by_tag)
        )


def scanned(
    model: Any,
    texts: Texts,
    candidates: tuple[str, ...] = DEFAULT_CANDIDATES,
    *,
    measure_all: bool = False,
) -> Profile:
    """As a scan finds it, every sequence scored."""
    batches = [{"input_ids": ids, "tag": tag} for tag, ids in texts.items()]
    second = SensitivityOptions(
        sum(map(len, texts.values())), Choices(candidates), measure_all, required=True
    )
    options = ScanOptions(batch_tokens=ROWS * 128, sensitivity=second)
    return Scan(subject_in_memory(model, batches), options).run()


def planner(profile: Profile, candidates: tuple[str, ...] = DEFAULT_CANDIDATES) -> Planner:
    """For an H100 and the usual load."""
    cost = Cost(Roofline(gpu("h100-sxm"), Workload(), 8), widened(profile.structure))
    return Planner(profile, cost, Asked(candidates))


def widened(structure: Structure) -> Structure:
    """The same linears, `WIDER` times as wide."""
    linears = tuple(
        replace(
            linear,
            in_features=WIDER * linear.in_features,
            out_features=WIDER * linear.out_features,
        )
        for linear in structure.linears
    )
    return replace(structure, linears=linears)


def rows_of(name: str, start: int, each: int, length: int) -> dict[str, Tensor]:
    """Ids [each, length] of each of the shared texts from a character on, <s> first."""
    from tests.planting import DATA, load

    _, tokenizer = load(name)
    found = {}
    for path in sorted((DATA / "text").iterdir()):
        text = path.read_text(encoding="utf-8")[start : start + 8 * each * length]
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        rows = torch.tensor(ids[: each * (length - 1)]).view(each, length - 1)
        first = torch.full((each, 1), tokenizer.bos_token_id)
        found[path.stem.partition("_")[0]] = torch.cat((first, rows), dim=1)
    return found
