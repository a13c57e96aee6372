"""Progress of a scan on stderr: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import numpy as np
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from fp8scope.cli.interrupts import Interrupts, tell
from fp8scope.cli.show import console, say
from fp8scope.observe.scan import Events
from fp8scope.profile.record import Profile

FIRST_LINE_S = 10.0
LINE_EVERY_S = 30.0
TAGS_SHOWN = 8


@contextmanager
def watch(interrupts: Interrupts) -> Iterator[Events]:
    """Events that show how far the scan is, and stop it when Ctrl-C was pressed."""
    screen = console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, disable=not sys.stderr.isatty()) as bars:
        view = _View(bars, interrupts)
        interrupts.announce = view.announce
        try:
            yield Events(
                begin=view.begin,
                weights=view.weights,
                batch=view.batch,
                scored=view.scored,
                measured=view.measured,
                stop=lambda: interrupts.asked,
                warn=lambda sentence: say(f"warning: {sentence}"),
            )
        finally:
            interrupts.announce = tell


class _View:
    def __init__(self, bars: Progress, interrupts: Interrupts) -> None:
        self.bars = bars
        self.interrupts = interrupts
        self.task: Any = None
        self.passes: dict[str, Any] = {}
        self.tokens = self.total_tokens = 0
        self.first_end, self.first_tokens = 0.0, 0
        self.next_line = monotonic() + FIRST_LINE_S

    def begin(self, profile: Profile) -> None:
        say(_what(profile))
        if profile.batches_done:
            say(f"resuming after {profile.batches_done} batches")
        lengths = profile.samples["length"]
        done = profile.batches["batch"] < profile.batches_done
        self.tokens = int(lengths[profile.batches["sample"][done]].sum())
        self.total_tokens = int(lengths.sum())
        if profile.weights:
            self._begin_text()
        else:
            self.interrupts.finishing = "this weight"

    def weights(self, done: int, total: int) -> None:
        if self.task is None:
            self.task = self._bar("weights", "linears", total, 0)
        self.bars.update(self.task, completed=done)
        self._line(f"weights of {done} of {total} linears")
        if done == total:
            self._begin_text()

    def batch(self, done: int, total: int, tokens: int) -> None:
        self.tokens += tokens
        seen, now = self.tokens - self.first_tokens, monotonic()
        speed, left = "", ""
        if self.first_end == 0:  # the first batch is slower than the rest: not counted
            self.first_end, self.first_tokens = now, self.tokens
        else:
            per_second = seen / max(now - self.first_end, 1e-9)
            speed = f"{per_second:,.0f} tokens/s"
            left = f", {speed}: about {_duration((self.total_tokens - self.tokens) / per_second)}"
            left += " to go"
        self.bars.update(self.task, completed=self.tokens, speed=speed)
        self._line(f"{done} of {total} batches{left}")

    def scored(self, done: int, total: int, tokens: int) -> None:
        self._second_pass("sensitivity", done, total)

    def measured(self, done: int, total: int) -> None:
        self._second_pass("measuring what is large", done, total)

    def _second_pass(self, name: str, done: int, total: int) -> None:
        if name not in self.passes:
            self.passes[name] = self._bar(name, "batches", total, done)
            self.task = self.passes[name]
        self.bars.update(self.task, completed=done)
        self._line(f"{name}: {done} of {total} batches")

    def announce(self, sentence: str) -> None:
        """Said on the bar itself, which would draw over a line that is printed."""
        if self.bars.disable or self.task is None:
            tell(sentence)
        else:
            self.bars.update(self.task, description=sentence)

    def _begin_text(self) -> None:
        self.task = self._bar("text", "tokens", self.total_tokens, self.tokens)
        self.interrupts.finishing = "this batch"

    def _bar(self, name: str, unit: str, total: int, done: int) -> Any:
        fields: dict[str, Any] = {"unit": unit, "speed": ""}
        return self.bars.add_task(name, total=total, completed=done, **fields)

    def _line(self, words: str) -> None:
        """Say that, where nothing shows a bar and nothing was said for a while."""
        now = monotonic()
        if not sys.stderr.isatty() and now >= self.next_line:
            self.next_line = now + LINE_EVERY_S
            say(words)


def _what(profile: Profile) -> str:
    """`scanning LlamaForCausalLM (llama) in bfloat16 on cpu: prose 20 sequences, 4,321 tokens`."""
    family = profile.structure.family or "a family not known"
    tags, lengths = profile.samples["tag"], profile.samples["length"]
    texts = [
        f"{tag} {np.count_nonzero(tags == i)} sequences, {lengths[tags == i].sum():,} tokens"
        for i, tag in enumerate(profile.tags[:TAGS_SHOWN])
    ]
    more = len(profile.tags) - TAGS_SHOWN
    texts += [f"and {more} more tags"] if more > 0 else []
    return (
        f"scanning {profile.model['architecture']} ({family}) in {profile.settings['dtype']} "
        f"on {profile.environment['device']}: {'; '.join(texts)}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
