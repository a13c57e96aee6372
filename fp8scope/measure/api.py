"""`plan --measure`: what a plan costs on text that its profile has not seen."""

from __future__ import annotations

from pathlib import Path

from fp8scope.artefacts.identity import check_same_model
from fp8scope.errors import BadInput, BadModel
from fp8scope.measure.budget import Planned, Replan, Round, Spending, meet_budget
from fp8scope.measure.kept import Kept, kept_path
from fp8scope.measure.measurement import unknown_tags
from fp8scope.measure.measuring import Events, Measuring, Subject
from fp8scope.profile.record import Profile


def measured_plan(  # noqa: PLR0913  (keywords, each with a default)
    first: Planned,
    subject: Subject,
    *,
    budget: float | None = None,
    replan: Replan | None = None,
    output: Path | None = None,
    resume: bool = False,
    force: bool = False,
    events: Events | None = None,
) -> Spending:
    """Measure the plan `first`, and plan anew until its KL is within `budget`.

    first: anything with `terms` (`core.choices.Term`; groups and caches that are not named stay
        BF16), and `kl` and `error`, the predicted KL of them together in nats per token.
    subject: the model with its identity, the profile that the plan is of, and held-out text:
        `loaded = load(reference, LoadOptions(dtype=profile.settings["dtype"], …))`, then
        `text = held_out_text(profile, loaded.model, loaded.tokenizer, sources)`, then
        `Subject(loaded.model, loaded.identity, profile, text)`.
    budget, replan: the KL in nats per token that must not be exceeded, and `replan(limit)`, the
        best plan predicted to cost at most `limit` (None where there is none). Without either,
        `first` is measured and that is all (the objectives that are no KL).
    output: where the plan will be written. Beside it `<output>.measuring` holds what is measured
        already; `resume` goes on with that, bit for bit, and `force` drops it. The caller removes
        it with `forget(output)` once the plan is written. None keeps nothing.
    events: how far it is, when to stop, notes for the person.

    `.result` is the last of `.rounds`: its `.plan` is an object that `first` was or `replan` gave,
    `.measurement` its numbers by tag, `.comparison` sets them against what was predicted.
    `.to_json()` stands in plan.json as `measured`. Where `.met` is False (the user wants groups in
    FP8 that cost more than the budget allows) the plan is written all the same, and a gate has
    failed: raise `GateFailed(unmet(spending))`.

    Raises Stale (not the profile's model), BadModel (another dtype), CannotResume (what is kept is
    of another model, text or profile), BadInput (something is kept, and neither `resume` nor
    `force`), Interrupted (what is done is kept), Missing (out of memory), and ValueError for a term
    of a group that the profile has no scales of (the text never reached it).
    """
    events = events or Events()
    check_subject(subject)
    kept = _kept(subject, output, resume=resume, force=force, events=events)
    for note in _notes(subject):
        events.warn(note)
    if budget is None or replan is None:
        measure = Measuring(subject, events, kept)
        limit = first.kl if budget is None else budget
        return Spending((Round(limit, first, measure(first.terms)),), budget)
    return meet_budget(first, replan, Measuring(subject, events, kept, several=True), budget)


def forget(output: Path) -> None:
    """Remove what was kept beside `output`: the plan is written."""
    Kept(output, {}).remove()


def unmet(spending: Spending) -> str:
    """What to say of a budget that does not hold."""
    result, plans = spending.result, len(spending.rounds)
    return (
        f"the measured KL is {result.measurement.kl:.2g} nats per token, the budget "
        f"{spending.budget:.2g}, and no plan that is left costs less ({plans} measured)"
    )


def check_subject(subject: Subject, owner: str = "the profile") -> None:
    """Raise Stale unless the model is the profile's, BadModel unless in its dtype or float32.

    In bf16 any change rolls the rounding of all later layers anew, which adds some 0.0002 nats per
    token in the demo; float32 measures what is quantized alone.
    """
    profile: Profile = subject.profile
    name = str(subject.identity["name"])
    remedy = f"give {profile.model['name']}, or scan {name} and plan anew"
    check_same_model(subject.identity, name, profile.model, owner, remedy)
    dtype = str(next(subject.model.parameters()).dtype).removeprefix("torch.")
    wanted = profile.settings["dtype"]
    if dtype not in (wanted, "float32"):
        raise BadModel(
            f"{owner} is of the model in {wanted}, and it runs in {dtype}",
            f"load it in {wanted} (or in float32)",
        )


def _kept(
    subject: Subject, output: Path | None, *, resume: bool, force: bool, events: Events
) -> Kept | None:
    if output is None:
        return None
    kept = Kept(output, subject.digests)
    if resume:
        if not kept.load():
            events.warn("no measuring is kept: starting anew")
    elif force:
        kept.remove()
    elif kept_path(output).exists():
        raise BadInput(
            f"an unfinished measuring is kept beside {output}",
            "--resume goes on with it, --force starts again",
        )
    return kept


def _notes(subject: Subject) -> list[str]:
    text, profile = subject.text, subject.profile
    notes = list(text.notes)
    lacking = [tag for tag in profile.tags if tag not in text.tags]
    if lacking:
        notes.append(f"no held-out text of tag {', '.join(lacking)}: not measured there")
    unknown = unknown_tags(text.tags, profile)
    if unknown:
        notes.append(
            f"tag {', '.join(unknown)} was not calibrated on: tags count by their held-out tokens"
        )
    return notes
