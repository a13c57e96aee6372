"""A model under one plan after the other, on the same text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from fp8scope.core.choices import Term
from fp8scope.errors import CannotWrite, Interrupted, Missing
from fp8scope.measure.kept import Kept, Sums
from fp8scope.measure.measurement import Measurement
from fp8scope.observe.applied import Applied
from fp8scope.observe.divergence import Moved, moved
from fp8scope.profile.record import Profile
from fp8scope.runtime.batches import make_batch, plan_batches, takes_padding
from fp8scope.runtime.prefix import Prefixes
from fp8scope.runtime.quantized import QuantizedParts
from fp8scope.runtime.text import Calibration


@dataclass(frozen=True)
class Subject:
    """What is measured: a model with its identity (`LoadedModel.identity`), the profile that its
    static scales come from, and text that the profile has not seen (`held_out_text`).
    """

    model: Any
    identity: dict[str, Any]
    profile: Profile
    text: Calibration

    @property
    def batch_tokens(self) -> int:
        """Most tokens of a micro-batch: those of the scan, which have fit."""
        return int(self.profile.settings.get("batch_tokens", 4096))

    @property
    def digests(self) -> dict[str, str]:
        """What must be the same for sums to be gone on from, by what a refusal calls it."""
        dtype = str(next(self.model.parameters()).dtype)
        return {
            "model": f"{self.identity['config_hash']} {self.identity['weights_hash']} {dtype}",
            "profile": _digest_of_scales(self.profile),
            "text": self.text.digest,
            "size of a micro-batch": str(self.batch_tokens),
        }


@dataclass
class Events:
    """How measuring talks to whoever started it.

    `measured(plan, done, total)` counts the batches of each plan, plans from 1, and comes before
    the first and after each batch; `stop()` is asked after each; `warn` gets a sentence for the
    person.
    """

    measured: Callable[[int, int, int], None] = lambda plan, done, total: None
    stop: Callable[[], bool] = lambda: False
    warn: Callable[[str], None] = lambda sentence: None


class Measuring:
    """Measures plan after plan; `kept` holds what is done already, and None keeps nothing.

    Where there are `several` plans, what the blocks return is kept in memory: the model's own
    logits are computed once, and each plan from the first block that it changes.
    """

    def __init__(
        self, subject: Subject, events: Events, kept: Kept | None = None, *, several: bool = False
    ) -> None:
        self._subject, self._events, self._kept = subject, events, kept
        parts = QuantizedParts.of(subject.model, subject.profile)
        self._known = {unit.name for unit in parts.units} | {x.group for x in parts.layers}
        self._applied = Applied.of(subject.model, parts)
        padding = takes_padding(subject.model, subject.profile.structure)
        self._batches = plan_batches(subject.text, subject.batch_tokens, padding=padding)
        self._several, count = several, len(self._batches)
        model, structure = subject.model, subject.profile.structure
        self._own = Prefixes(model, structure, batches=count, most=1)
        self._changed = Prefixes(model, structure, batches=count, warn=events.warn)
        self._plans = 0

    def __call__(self, terms: Sequence[Term]) -> Measurement:
        """Measure the model with these terms applied.

        Raises Interrupted (what is done is kept), Missing (out of memory) and ValueError for a
        group that the profile has no scales of.
        """
        unknown = sorted({term.group for term in terms} - self._known)
        if unknown:
            raise ValueError(f"the profile holds no input of {unknown[0]}")
        self._plans += 1
        sums = self._kept.sums(terms) if self._kept else {}
        done = sum(sums.keys() >= set(samples) for samples in self._batches)
        self._events.measured(self._plans, done, len(self._batches))
        for samples in self._batches:
            if sums.keys() >= set(samples):
                continue
            found = self._batch(samples, terms)
            sums |= found
            done += 1
            self._keep(terms, found)
            self._events.measured(self._plans, done, len(self._batches))
            if self._events.stop():
                raise Interrupted(
                    f"stopped measuring plan {self._plans} after {done} of {len(self._batches)} "
                    "batches"
                )
        rows = np.array([sums[sample.index] for sample in self._subject.text.samples])
        return Measurement.of(Moved(*rows.T), self._subject.text, self._subject.profile)

    def _batch(self, samples: Sequence[int], terms: Sequence[Term]) -> dict[int, Sums]:
        batch = make_batch(self._subject.text, samples)
        ids = batch.input_ids.to(next(self._subject.model.parameters()).device)
        forward, keep = partial(self._applied.logits, ids), self._several
        try:
            true = self._own.run(batch.samples, (), forward, keep=keep)
            with self._applied.terms(terms):
                other = self._changed.run(batch.samples, terms, forward, keep=keep)
                found = moved(true, other, ids, batch.lengths)
        except torch.OutOfMemoryError as error:
            raise Missing("out of memory in the measuring", "take a larger device") from error
        return dict(zip(batch.samples, found.rows().T.tolist(), strict=True))

    def _keep(self, terms: Sequence[Term], sums: dict[int, Sums]) -> None:
        """If the disk lets us: without it the measuring is no worse off."""
        if self._kept is None:
            return
        try:
            self._kept.save(terms, sums)
        except CannotWrite as error:
            self._events.warn(f"nothing is kept for --resume: {error.what}")
            self._kept = None


def _digest_of_scales(profile: Profile) -> str:
    """Of all that static scales and factors follow from, the weights apart."""
    digest = hashlib.blake2b(digest_size=16)
    found = [(*site, record.channel_amax) for site, record in profile.sites.items()]
    found += [(*site, record.channel_amax) for site, record in profile.experts.items()]
    for module, role, amax in sorted(found, key=lambda row: row[:2]):
        digest.update(f"{module} {role}".encode())
        digest.update(np.ascontiguousarray(amax).tobytes())
    return digest.hexdigest()
