"""`fp8scope plan --measure`: the plan on the model, with progress, Ctrl-C and going on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fp8scope.cli.interrupts import Interrupts, tell
from fp8scope.cli.plan_options import PlanArguments
from fp8scope.cli.show import console, go_on, say
from fp8scope.cli.subject import DEMO
from fp8scope.errors import BadInput, Interrupted
from fp8scope.measure.api import measured_plan, unmet
from fp8scope.measure.budget import Spending
from fp8scope.measure.held_out import SAMPLES, held_out_text
from fp8scope.measure.kept import kept_path
from fp8scope.measure.measuring import Events, Subject
from fp8scope.plan.make import PlanMaker
from fp8scope.plan.objective import Limit
from fp8scope.plan.planner import Choice
from fp8scope.runtime.loading import LoadOptions, load
from fp8scope.runtime.sources import parse_source

if TYPE_CHECKING:
    from fp8scope.profile.record import Profile


@dataclass(frozen=True)
class Outcome:
    """The plan that was measured last, the budget that it was solved for (None: that asked for),
    the measurements as plain values, and what to say of a budget that does not hold.
    """

    choice: Choice
    max_kl: float | None
    measured: dict[str, Any]
    failed: str
    notes: tuple[str, ...]


def measure(arguments: PlanArguments, maker: PlanMaker, interrupts: Interrupts) -> Outcome:
    """Measure the plan, and plan anew until its budget holds. Raises as `measured_plan`."""
    first = maker.choose()
    say("loading torch and the model …")
    subject = _subject(arguments, maker.profile)
    asked = maker.objective
    budget = asked.value if asked.limit is Limit.KL else None
    notes: list[str] = []
    with _watch(interrupts, notes) as events:
        try:
            found = measured_plan(
                first,
                subject,
                budget=budget,
                replan=lambda limit: _replan(maker, limit),
                output=arguments.output,
                resume=arguments.resume,
                force=arguments.force,
                events=events,
            )
        except Interrupted as error:
            raise _with_advice(error, arguments) from error
    return _outcome(found, budget, tuple(notes))


def _outcome(found: Spending, budget: float | None, notes: tuple[str, ...]) -> Outcome:
    choice, limit = found.result.plan, found.result.limit
    if not isinstance(choice, Choice):
        raise TypeError("a plan that this planner did not make")
    tightened = budget is not None and len(found.rounds) > 1
    return Outcome(
        choice,
        limit if tightened else None,
        found.to_json(),
        "" if found.met else unmet(found),
        notes,
    )


def _replan(maker: PlanMaker, limit: float) -> Choice | None:
    try:
        return maker.choose(limit)
    except BadInput:
        return None


def _subject(arguments: PlanArguments, profile: Profile) -> Subject:
    from fp8scope.runtime.quiet import quiet_transformers

    quiet_transformers()
    reference = arguments.measure or ""
    sources = [parse_source(text, "--held-out") for text in arguments.held_out]
    if reference == DEMO:
        from fp8scope.demo.files import DEMO_MODEL, demo_held_out

        reference, sources = str(DEMO_MODEL), sources or demo_held_out()
    options = LoadOptions(
        dtype=arguments.dtype or str(profile.settings["dtype"]),
        device=arguments.device,
        trust_remote_code=arguments.trust_remote_code,
        allow_pickle=arguments.allow_pickle,
    )
    loaded = load(reference, options)
    samples = arguments.held_out_samples or SAMPLES
    text = held_out_text(profile, loaded.model, loaded.tokenizer, sources, samples)
    return Subject(loaded.model, {**loaded.identity, "name": arguments.measure}, profile, text)


@contextmanager
def _watch(interrupts: Interrupts, notes: list[str]) -> Iterator[Events]:
    """Events that show how far it is, and stop it when Ctrl-C was pressed."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} batches"),
        TimeRemainingColumn(),
    )
    shown = sys.stderr.isatty()
    with Progress(*columns, console=console(stderr=True), disable=not shown) as bars:
        tasks: dict[int, Any] = {}

        def measured(plan: int, done: int, total: int) -> None:
            if plan not in tasks:
                again = f", plan {plan}: the budget was missed" if plan > 1 else ""
                tasks[plan] = bars.add_task(f"measuring{again}", total=total)
                if not shown:
                    say(f"measuring{again}: {total - done} batches")
            bars.update(tasks[plan], completed=done)

        interrupts.finishing = "this batch"
        interrupts.announce = tell
        try:
            yield Events(measured=measured, stop=lambda: interrupts.asked, warn=notes.append)
        finally:
            interrupts.finishing = ""


def _with_advice(error: Interrupted, arguments: PlanArguments) -> Interrupted:
    if not kept_path(arguments.output).exists():
        return error
    return Interrupted(error.what, go_on())
