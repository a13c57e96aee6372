"""A scan: weights, then micro-batch after micro-batch, with partials kept on the way.

The order of work is fixed by the calibration, all state is in the profile, and sums are taken
sequence by sequence in that order: going on from a partial gives, bit for bit, what an
uninterrupted scan gives (of the second pass, unless so little memory is free that it decides on
the size of a micro-batch).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from fp8scope.core.structure import Structure
from fp8scope.errors import BadModel, CannotWrite, Interrupted, Missing
from fp8scope.observe.provenance import batch_table, environment, excerpt_table, sample_table
from fp8scope.observe.recorder import ERROR_TOKEN_STRIDE, Recorder
from fp8scope.observe.sensitivity import (
    SensitivityOptions,
    SensitivityPass,
    Steps,
    check_memory,
)
from fp8scope.observe.weights import record_experts, record_weights
from fp8scope.profile.layout import EXCERPT_COLUMNS, TOP_K
from fp8scope.profile.partial import Partials
from fp8scope.profile.record import Profile, empty_table
from fp8scope.profile.same import check_same_scan, other_machine
from fp8scope.runtime.batches import make_batch, plan_batches, takes_padding
from fp8scope.runtime.text import Calibration


@dataclass(frozen=True)
class Subject:
    """What is scanned: the model with its tokenizer (None: no excerpts), text and identity."""

    model: nn.Module
    tokenizer: Any
    config: dict[str, Any]
    identity: dict[str, Any]
    structure: Structure
    calibration: Calibration


@dataclass(frozen=True)
class ScanOptions:
    """`record` is `standard` or `full`; `batch_tokens` bounds a micro-batch, padding included;
    a partial is written every `keep_every` seconds, or more rarely where writing is slow;
    `all_experts` shows every token to every routed expert, see `observe.experts`;
    `sensitivity` is that of the second pass, None for none.
    """

    record: str = "standard"
    batch_tokens: int = 4096
    keep_every: float = 30.0
    all_experts: bool = False
    sensitivity: SensitivityOptions | None = None


@dataclass
class Events:
    """How a scan talks to whoever started it.

    `begin(profile)` comes first, with what a partial holds already; `stop()` is asked after
    every weight and micro-batch; `warn` gets a sentence for the person.
    """

    begin: Callable[[Profile], None] = lambda profile: None
    weights: Callable[[int, int], None] = lambda done, total: None
    batch: Callable[[int, int, int], None] = lambda done, total, tokens: None
    scored: Callable[[int, int, int], None] = lambda done, total, tokens: None
    measured: Callable[[int, int], None] = lambda done, total: None
    stop: Callable[[], bool] = lambda: False
    warn: Callable[[str], None] = lambda sentence: None


@dataclass
class Scan:
    """One scan, fresh or going on from a partial."""

    subject: Subject
    options: ScanOptions = field(default_factory=ScanOptions)
    events: Events = field(default_factory=Events)
    partials: Partials | None = None

    def __post_init__(self) -> None:
        padding = takes_padding(self.subject.model, self.subject.structure)
        self._batches = plan_batches(
            self.subject.calibration, self.options.batch_tokens, padding=padding
        )
        self._clock = _Clock(self.options.keep_every)
        self._warned = False

    def run(self, resume: Profile | None = None) -> Profile:
        """The finished profile.

        Raises BadModel (inf or NaN, layer and sample named; or, as Missing, a second pass that is
        required and cannot be had), Interrupted (a partial is kept), and CannotResume if `resume`
        belongs to another scan.
        """
        subject, second = self.subject, self.options.sensitivity
        if second and second.required:  # hours before it would show by itself
            check_memory(subject.model, subject.structure, subject.calibration, second.samples)
        profile = self.new_profile()
        if resume is not None:
            profile = self._accept(resume, profile)
        self._clock.begin(profile.environment["seconds"])
        self.events.begin(profile)
        if not profile.weights:
            full = self.options.record == "full"
            profile.weights = record_weights(subject.model, full, self._weights_progress)
            profile.expert_weights = record_experts(subject.model, self._weights_progress)
        self._forward(profile)
        self._second_pass(profile)
        excerpts = excerpt_table(profile, subject.calibration, subject.tokenizer)
        self._stop_if_asked(profile)
        profile.excerpts = excerpts
        profile.environment["seconds"] = self._clock.seconds()
        profile.complete = True
        return profile

    def _accept(self, kept: Profile, fresh: Profile) -> Profile:
        remedy = "repeat the first command, or start again with --force"
        check_same_scan(fresh, kept, "the kept partial", remedy)
        for note in other_machine(fresh, kept):
            self.events.warn(note)
            kept.notes = tuple(dict.fromkeys((*kept.notes, note)))
        return kept

    def _forward(self, profile: Profile) -> None:
        subject, batches = self.subject, self._batches
        device = next(subject.model.parameters()).device
        recorder = Recorder(
            subject.model,
            subject.structure,
            profile.tags,
            len(subject.calibration.samples),
            full=self.options.record == "full",
            all_experts=self.options.all_experts,
        )
        for kind in ("sites", "aliases", "experts"):  # one mapping, filled further by the recorder
            setattr(recorder, kind, dict(getattr(profile, kind)))
            setattr(profile, kind, getattr(recorder, kind))
        with recorder:
            for number in range(profile.batches_done, len(batches)):
                batch = make_batch(subject.calibration, batches[number])
                recorder.run(batch, device)
                profile.batches_done = number + 1
                profile.notes = tuple(dict.fromkeys((*profile.notes, *recorder.notes)))
                self.events.batch(number + 1, len(batches), sum(batch.lengths))
                self._stop_or_keep(profile)
        never = recorder.never_ran()
        if never:
            note = f"{len(never)} linears never ran, e.g. {never[0]}"
            profile.notes = tuple(dict.fromkeys((*profile.notes, note)))

    def _second_pass(self, profile: Profile) -> None:
        """Sensitivity, where it was asked for; a note where it is not to be had and need not be."""
        options = self.options.sensitivity
        if options is None:
            return
        text = self.subject.calibration
        steps = Steps(self.events.scored, self.events.measured, lambda: self._stop_or_keep(profile))
        try:
            SensitivityPass(self.subject.model, profile, text, options).run(profile, steps)
        except (BadModel, Missing) as error:
            if options.required:
                raise
            scored = profile.sensitivity
            if scored is not None and not np.isnan(scored.kl_token).any():
                note = f"sensitivity is predicted, not measured: {error.what}"
            else:
                profile.sensitivity, note = None, f"no sensitivity: {error.what}"
            profile.notes = tuple(dict.fromkeys((*profile.notes, note)))

    def _stop_or_keep(self, profile: Profile) -> None:
        self._stop_if_asked(profile)
        if self._clock.due():
            self._keep(profile)
            self._clock.written()

    def _weights_progress(self, done: int, total: int) -> None:
        self.events.weights(done, total)
        if self.events.stop():
            raise Interrupted("stopped while reading weights; nothing is kept of that")

    def _stop_if_asked(self, profile: Profile) -> None:
        if self.events.stop():
            self._keep(profile)
            scored = profile.sensitivity
            done = f"{profile.batches_done} of {len(self._batches)} batches"
            more = f" and {scored.batches_done} of the second pass" if scored else ""
            raise Interrupted(f"stopped after {done}{more}")

    def _keep(self, profile: Profile) -> None:
        """Write a partial if the disk lets us: without one the scan is no worse off."""
        if self.partials is None:
            return
        profile.environment["seconds"] = self._clock.seconds()
        try:
            self.partials.save(profile)
        except CannotWrite as error:
            if not self._warned:
                self.events.warn(f"no partial is kept: {error.what}")
            self._warned = True

    def new_profile(self) -> Profile:
        """The profile before anything is recorded: of which model, text and settings."""
        subject, text = self.subject, self.subject.calibration
        dtype = next(subject.model.parameters()).dtype
        notes = list(text.notes)
        if subject.structure.family is None:
            notes.append(
                f"architecture {subject.identity['architecture']} is not known: each linear is "
                "its own group, and nothing is foldable"
            )
        return Profile(
            model=dict(subject.identity),
            settings={
                "dtype": str(dtype).removeprefix("torch."),
                "record": self.options.record,
                "samples": len(text.samples),
                "seq_len": text.seq_len,
                "samples_asked": text.requested[0],
                "seq_len_asked": text.requested[1],
                "seed": text.seed,
                "batch_tokens": self.options.batch_tokens,
                "all_experts": self.options.all_experts,
                **(
                    self.options.sensitivity.settings()
                    if self.options.sensitivity
                    else {"sensitivity": "none"}
                ),
                "text_digest": text.digest,
                "top_k": TOP_K,
                "error_token_stride": ERROR_TOKEN_STRIDE,
            },
            environment=environment(subject.model),
            config=subject.config,
            structure=subject.structure,
            tags=text.tags,
            sources=tuple(vars(source) for source in text.sources),
            samples=sample_table(text),
            batches=batch_table(self._batches),
            sites={},
            weights={},
            aliases={},
            excerpts=empty_table(EXCERPT_COLUMNS),
            notes=tuple(notes),
        )


class _Clock:
    """When to write a partial: every `every` seconds, but not over a twentieth of the time.
    And how long the scan has run, the runs before a stop included.
    """

    def __init__(self, every: float) -> None:
        self.every = every
        self.begin(0)

    def begin(self, seconds_before: float) -> None:
        self.asked = self.last = time.monotonic()
        self.started = self.last - seconds_before

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def due(self) -> bool:
        self.asked = time.monotonic()
        return self.asked - self.last >= self.every

    def written(self) -> None:
        self.last = time.monotonic()
        if self.every:  # 0 asks for a partial after every batch, whatever that costs
            self.every = max(self.every, 20 * (self.last - self.asked))
