"""A scan's second pass: what each candidate of each group would cost, in nats per token.

One forward and one backward with sampled labels over a subset of the sequences, under the static
scales that the first pass found; then what is predicted to be large, and the whole model, is
measured as well: second order does not hold there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.analyze.thresholds import HARM_NATS, UNEXPLAINED_TIMES
from fp8scope.core.choices import Choices, Kind, Row, Term
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.core.structure import Structure
from fp8scope.errors import BadModel, Fp8scopeError, Missing, one_line
from fp8scope.observe.applied import Applied
from fp8scope.observe.divergence import kl_by_sequence
from fp8scope.observe.gradients import Gradients
from fp8scope.observe.labels import draws
from fp8scope.observe.term_scores import TermScores
from fp8scope.profile.record import Profile
from fp8scope.profile.sensitivity import Sensitivity
from fp8scope.runtime.batches import Batch, make_batch, plan_batches, takes_padding
from fp8scope.runtime.experts import experts_per_token
from fp8scope.runtime.memory import available_bytes
from fp8scope.runtime.prefix import Prefixes
from fp8scope.runtime.quantized import QuantizedParts
from fp8scope.runtime.text import Calibration

MEASURE_FROM = 0.1
"""Nats per token from which on a row is measured: second order is no estimate any more."""


@dataclass(frozen=True)
class SensitivityOptions:
    """`measure_all` measures every row (slow, the reference). `required`: where the pass cannot
    be had, refuse; else it is left out with a note.
    """

    samples: int = 64
    choices: Choices = field(default_factory=lambda: Choices(DEFAULT_CANDIDATES))
    measure_all: bool = False
    required: bool = False

    def settings(self) -> dict[str, Any]:
        """What a profile says of it."""
        return {
            "sensitivity": "kl" if self.measure_all else "fisher",
            "sensitivity_samples": self.samples,
            "candidates": ",".join(self.choices.candidates),
            "alphas": ",".join(map(str, self.choices.alphas)),
            "sensitivity_parts": self.choices.parts,
        }


@dataclass(frozen=True)
class Steps:
    """What the pass calls: `scored(done, total, tokens)` and `measured(done, total)` count batches,
    and `after` each of them, and each row measured, is the time to stop or to keep a partial.
    """

    scored: Callable[[int, int, int], None]
    measured: Callable[[int, int], None]
    after: Callable[[], None]


class SensitivityPass:
    """The second pass over one model, whose profile holds the first.

    Raises Missing (memory) or BadModel (no logits, no backward).
    """

    def __init__(
        self, model: Any, profile: Profile, text: Calibration, options: SensitivityOptions
    ) -> None:
        self._model = model
        self._text = text
        self._options = options
        self._seed = int(profile.settings["seed"])
        self._parts = QuantizedParts.of(model, profile)
        structure = replace(profile.structure, kv_layers=self._parts.layers)
        # of a model whose linears are all outside its blocks, the whole is nothing
        rows = options.choices.rows(structure, self._parts.units)
        self._rows = [row for row in rows if row.terms]
        kept = profile.sensitivity
        self._samples: list[int] = (
            kept.samples.tolist() if kept else choose_samples(text, options.samples)
        )
        self._place = {sample: place for place, sample in enumerate(self._samples)}
        self._structure = profile.structure
        self._batch_tokens = int(profile.settings["batch_tokens"])

    def run(self, profile: Profile, steps: Steps) -> None:
        """Fill `profile.sensitivity`, or go on with it."""
        if not self._rows:
            raise BadModel(
                "no candidate fits any linear whose input was recorded",
                "--sensitivity none goes without it",
            )
        if profile.sensitivity is None:
            table = profile.samples
            profile.sensitivity = Sensitivity.empty(
                self._rows, self._samples, table["tag"], table["length"]
            )
        scored = profile.sensitivity
        try:
            stage = "backward pass"
            self._score(scored, steps)
            stage = "measuring"
            self._measure(scored, steps, self._to_measure(scored))
            self._measure(scored, steps, self._underestimated(scored))
        except Fp8scopeError:
            raise
        except torch.OutOfMemoryError as error:
            raise Missing(f"out of memory in the {stage}", "lower --batch-tokens") from error
        except Exception as error:
            raise BadModel(
                f"the {stage} fails: {type(error).__name__}: {one_line(error)}",
                "--sensitivity none goes without it",
            ) from error

    def _left(self, nats: NDArray[np.float64]) -> tuple[tuple[int, ...], ...]:
        """The batches of the sequences that `nats` [rows, scored] lacks.

        What fits may have changed since they were begun, so they are planned by what is missing.
        """
        left = {self._samples[i] for i in np.flatnonzero(np.isnan(nats).any(axis=0))}
        if not left:
            return ()
        fits = tokens_that_fit(self._model, self._structure, max(map(self._length, left)))
        padding = takes_padding(self._model, self._structure)
        return plan_batches(self._text, min(fits, self._batch_tokens), padding=padding, only=left)

    def _score(self, scored: Sensitivity, steps: Steps) -> None:
        batches = self._left(scored.kl_token)
        if not batches:
            return
        total = scored.batches_done + len(batches)
        quantized, caches = self._parts.gemms, self._parts.caches
        terms = TermScores(quantized, caches, [t for row in scored.rows for t in row.terms])
        gemms = [gemm.gemm for gemm in quantized.values()]
        with Gradients(self._model, gemms, terms, cached=bool(caches)) as gradients:
            for samples in batches:
                batch = make_batch(self._text, samples)
                terms.scores.clear()
                gradients.run(batch.input_ids.to(self._device()), self._draws(batch))
                by_token, by_sequence = kl_of_scores(scored.rows, terms.scores, batch)
                places = [self._place[sample] for sample in batch.samples]
                scored.kl_token[:, places] = by_token
                scored.kl_sequence[:, places] = by_sequence
                scored.batches_done += 1
                steps.scored(scored.batches_done, total, sum(batch.lengths))
                steps.after()

    def _measure(self, scored: Sensitivity, steps: Steps, chosen: NDArray[np.intp]) -> None:
        if not len(chosen):
            return
        applied = Applied.of(self._model, self._parts)
        prefixes = Prefixes(self._model, self._structure)
        batches = self._left(scored.kl_measured[chosen])
        total = scored.measured_done + len(batches)
        for samples in batches:
            batch = make_batch(self._text, samples)
            ids = batch.input_ids.to(self._device())
            places = [self._place[sample] for sample in batch.samples]
            forward = partial(applied.logits, ids)
            prefixes.clear()
            true = prefixes.run(samples, (), forward)
            for row in chosen:
                if np.isfinite(scored.kl_measured[row, places]).all():
                    continue  # from before an interrupt
                terms = scored.rows[row].terms
                with applied.terms(terms):
                    other = prefixes.run(samples, terms, forward, keep=False)
                    scored.kl_measured[row, places] = kl_by_sequence(true, other, batch.lengths)
                steps.after()
            scored.measured_done += 1
            steps.measured(scored.measured_done, total)
            steps.after()

    def _to_measure(self, scored: Sensitivity) -> NDArray[np.intp]:
        """Rows whose prediction is large (or not a number), and the whole model."""
        lengths = np.array([self._length(sample) for sample in self._samples], np.int32)
        small = scored.per_token(lengths) < MEASURE_FROM
        whole = np.array([row.kind is Kind.MODEL for row in scored.rows], bool)
        return np.flatnonzero(~small | whole | self._options.measure_all)

    def _underestimated(self, scored: Sensitivity) -> NDArray[np.intp]:
        """The groups of a whole model that costs far more than predicted: second order fails there,
        and a small prediction is no reason to leave a group unmeasured.
        """
        tokens = sum(map(self._length, self._samples))
        predicted, measured = scored.kl_token.sum(axis=1), scored.kl_measured.sum(axis=1)
        failed = (measured >= HARM_NATS * tokens) & (measured > UNEXPLAINED_TIMES * predicted)
        wholes = (r for i, r in enumerate(scored.rows) if failed[i] and r.kind is Kind.MODEL)
        terms = {term for row in wholes for term in row.terms}
        alone = (row.kind is Kind.GROUP and row.terms[0] in terms for row in scored.rows)
        return np.flatnonzero(np.fromiter(alone, bool, len(scored.rows)))

    def _draws(self, batch: Batch) -> list[Tensor]:
        samples = self._text.samples
        return [draws(samples[i].digest, len(samples[i].tokens), self._seed) for i in batch.samples]

    def _length(self, sample: int) -> int:
        return len(self._text.samples[sample].tokens)

    def _device(self) -> torch.device:
        device: torch.device = next(self._model.parameters()).device
        return device


def choose_samples(text: Calibration, count: int) -> list[int]:
    """About `count` of the sequences, in order: of each tag its share, at least one.

    Which ones depends on their words (the digest), not on their order.
    """
    chosen: list[int] = []
    for tag in range(len(text.tags)):
        mine = [sample for sample in text.samples if sample.tag == tag]
        share = max(1, round(count * len(mine) / len(text.samples)))
        mine.sort(key=lambda sample: (sample.digest, sample.index))
        chosen += [sample.index for sample in mine[:share]]
    return sorted(chosen)


def kl_of_scores(
    rows: Sequence[Row], scores: Mapping[Term, Tensor], batch: Batch
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nats of each row and sequence, [rows, sequences]: ½·Σ s² and ½·(Σ s)² over its tokens s.

    What the backward never reached costs nothing.
    """
    shape = batch.input_ids.shape
    result = np.zeros((2, len(rows), len(batch.samples)))
    real = batch.real_tokens().view(shape).numpy()
    table = {term: score.double().cpu().numpy().reshape(shape) for term, score in scores.items()}
    for index, row in enumerate(rows):
        score = np.zeros(shape)
        for term in row.terms:
            score += table.get(term, 0.0)
        score[~real] = 0
        result[0, index] = (score**2).sum(axis=1) / 2
        result[1, index] = score.sum(axis=1) ** 2 / 2
    return result[0], result[1]


def check_memory(model: Any, structure: Structure, text: Calibration, samples: int) -> None:
    """Raise Missing where the backward of the longest scored sequence would not fit."""
    lengths = (len(text.samples[sample].tokens) for sample in choose_samples(text, samples))
    if structure.linears:
        tokens_that_fit(model, structure, max(lengths))


def tokens_that_fit(model: Any, structure: Structure, longest: int) -> int:
    """Most tokens of a micro-batch whose backward fits into memory.

    Kept for the backward: about twice what every linear reads and writes (the residual stream,
    norms and attention between them included), routed experts once for each that a token goes to,
    and the logits with their gradient. On top comes what one GEMM takes while it is scored: five
    copies of its input and four of its weight.
    Raises Missing where not even one sequence of `longest` tokens fits.
    """
    parameter = next(model.parameters())
    linears = structure.linears
    times = [experts_per_token(model) if linear.experts else 1 for linear in linears]
    widths = sum(
        n * (linear.in_features + linear.out_features)
        for n, linear in zip(times, linears, strict=True)
    )
    vocabulary = max(linear.out_features for linear in linears)
    widest = max(linear.in_features for linear in linears)
    weight = max(linear.in_features * linear.out_features for linear in linears)
    per_token = 2 * widths * parameter.itemsize + 4 * vocabulary * parameter.itemsize + 20 * widest
    free = available_bytes(parameter.device)
    if free is None:
        return sys.maxsize
    tokens = int((free - 16 * weight) / per_token)
    if tokens < longest:
        needed = (16 * weight + longest * per_token) / 1e9
        raise Missing(
            f"sensitivity needs about {needed:.1f} GB for a sequence of {longest} tokens, and "
            f"{free / 1e9:.1f} GB are free",
            "lower --seq-len, or --sensitivity none",
        )
    return tokens
