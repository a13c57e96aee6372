"""What the command line calls: refusals before anything is computed, all rounds, going on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fp8scope.artefacts.identity import check_same_model
from fp8scope.core.choices import Term
from fp8scope.errors import BadInput, BadModel, CannotResume, Interrupted, Stale
from fp8scope.measure.api import forget, measured_plan
from fp8scope.measure.budget import Spending
from fp8scope.measure.kept import kept_path
from fp8scope.measure.measuring import Events, Subject
from tests.measure import subjects
from tests.measure.subjects import Plan


class Planner:
    """Gives up the groups in their order; each is predicted to cost a hundredth of a nat."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = terms

    def __call__(self, limit: float) -> Plan:
        count = min(len(self.terms), int(limit / 0.01 + 1e-9))
        chosen = self.terms[len(self.terms) - count :]
        return Plan(chosen, 0.01 * len(chosen))


@pytest.fixture
def what() -> Subject:
    return subjects.subject("llama")


def spend(what: Subject, events: Events | None = None, **more: Any) -> Spending:
    """Within a third of what all groups cost."""
    terms = subjects.whole(what)
    replan = Planner(terms)
    alone = measured_plan(Plan(terms), what).result.measurement.kl
    first = Plan(terms, 0.01 * len(terms))
    return measured_plan(first, what, budget=alone / 3, replan=replan, events=events, **more)


def same(a: Spending, b: Spending) -> bool:
    return repr(a) == repr(b)


def test_it_spends_until_the_measured_kl_holds(what: Subject) -> None:
    seen: list[tuple[int, ...]] = []
    found = spend(what, Events(measured=lambda *state: seen.append(state)))
    assert found.met
    assert found.budget is not None
    assert len(found.rounds[0].plan.terms) == len(subjects.whole(what))
    assert len(found.rounds) > 1
    assert found.rounds[-2].measurement.kl > found.budget >= found.result.measurement.kl
    assert {plan for plan, _, _ in seen} == set(range(1, len(found.rounds) + 1))
    compared = found.result.comparison
    assert compared.predicted.kl == found.result.plan.kl
    assert compared.measured == found.result.measurement.whole.kl
    for each in found.rounds:  # blocks that were not run again change no bit
        alone = measured_plan(Plan(each.plan.terms), what).result
        assert repr(alone.measurement) == repr(each.measurement)


def test_without_a_budget_it_is_measured_once(what: Subject) -> None:
    found = measured_plan(Plan(subjects.whole(what)), what, replan=Planner(()))
    assert found.met
    assert len(found.rounds) == 1


class Stop:
    """Asks to stop after so many batches of all plans."""

    def __init__(self, batches: int) -> None:
        self.left = batches
        self.events = Events(stop=self._stop)

    def _stop(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_interrupted_anywhere_it_goes_on_to_the_same_rounds(what: Subject, tmp_path: Path) -> None:
    want = spend(what)
    output, stops = tmp_path / "plan.json", 0
    while True:
        try:
            found = spend(what, Stop(1).events, output=output, resume=stops > 0)
        except Interrupted:
            stops += 1
            assert kept_path(output).exists()
        else:
            break
    assert same(found, want)
    assert stops > 3
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json.measuring"]
    forget(output)
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from fp8scope.measure.measuring import Events
from tests.measure import subjects
from tests.measure.test_api import spend

def measured(plan, done, total):
    if (plan, done) == (2, 2):
        os.kill(os.getpid(), signal.SIGKILL)

spend(subjects.subject("llama"), Events(measured=measured), output=Path(sys.argv[1]))
"""


def test_killed_without_a_chance_to_say_so_it_goes_on(what: Subject, tmp_path: Path) -> None:
    output = tmp_path / "plan.json"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(output)], check=False, cwd=root)
    assert done.returncode == -signal.SIGKILL
    seen: list[tuple[int, ...]] = []
    events = Events(measured=lambda *state: seen.append(state))
    found = spend(what, events, output=output, resume=True)
    assert same(found, spend(what))
    first = {plan: next(done for p, done, _ in seen if p == plan) for plan, _, _ in seen}
    assert first[1] == seen[0][2]  # all of the first plan was there, and two batches of the next
    assert first[2] == 2


def keep(what: Subject, output: Path) -> None:
    with pytest.raises(Interrupted):
        spend(what, Stop(2).events, output=output)


def test_what_is_kept_is_neither_lost_nor_taken_unasked(what: Subject, tmp_path: Path) -> None:
    output = tmp_path / "plan.json"
    keep(what, output)
    with pytest.raises(BadInput, match=r"unfinished .* beside .*plan\.json → --resume"):
        spend(what, output=output)
    said: list[str] = []
    found = spend(what, Events(warn=said.append), output=output, force=True)
    assert same(found, spend(what))
    assert not said
    forget(output)
    spend(what, Events(warn=said.append), output=output, resume=True)
    assert said == ["no measuring is kept: starting anew"]


def test_what_is_kept_of_another_measuring_is_refused(what: Subject, tmp_path: Path) -> None:
    output = tmp_path / "plan.json"
    keep(what, output)

    def refused(other: Subject, said: str) -> None:
        with pytest.raises(CannotResume, match=said) as caught:
            measured_plan(Plan(subjects.whole(other)), other, output=output, resume=True)
        assert "\n" not in str(caught.value)

    model = {**what.identity, "weights_hash": "memory:other"}
    profile = replace(what.profile, model=model)
    refused(replace(what, identity=model, profile=profile), "measuring: another model → start")
    refused(replace(what, text=subjects.text(seed=900)), "measuring: another text → start")
    moved = replace(what.profile, sites=dict(list(what.profile.sites.items())[::-1]))
    measured_plan(Plan(()), replace(what, profile=moved), output=output, resume=True)  # the same
    site, record = next(iter(what.profile.sites.items()))
    scaled = replace(record, channel_amax=record.channel_amax * 2)
    moved = replace(what.profile, sites={**what.profile.sites, site: scaled})
    refused(replace(what, profile=moved), "measuring: another profile → start")
    moved = replace(what.profile, settings={**what.profile.settings, "batch_tokens": 7})
    refused(replace(what, profile=moved), "another size of a micro-batch → start")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"format": "x", "version": 1}', b"\xff\x00", b'{"format"']
)
def test_a_damaged_file_is_refused(what: Subject, tmp_path: Path, content: bytes) -> None:
    output = tmp_path / "plan.json"
    kept_path(output).write_bytes(content)
    with pytest.raises(CannotResume, match=r"plan\.json\.measuring is not readable .* → start"):
        spend(what, output=output, resume=True)


def test_notes_for_the_person(what: Subject) -> None:
    said: list[str] = []
    events = Events(warn=said.append)
    other = replace(what, text=subjects.text({"code": (9, 9)}))
    measured_plan(Plan(()), other, events=events)
    assert said == ["no held-out text of tag prose: not measured there"]
    said.clear()
    other = replace(what, text=subjects.text({"prose": (9, 9), "new": (9,), "code": (7,)}))
    measured_plan(Plan(()), other, events=events)
    assert said == ["tag new was not calibrated on: tags count by their held-out tokens"]


# ---- another model


FILES = {
    "name": "llama-8b",
    "architecture": "LlamaForCausalLM",
    "config_hash": "c1",
    "weights_hash": "w1",
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"weights_hash": "w2"},
            r"^mine does not belong to p\.h5 \(another fine-tune: the weights differ\) → rescan",
        ),
        (
            {"architecture": "OPTForCausalLM", "config_hash": "c2", "weights_hash": "w2"},
            r"^mine is of another architecture: OPTForCausalLM, p\.h5 is of Llama.* → rescan",
        ),
        (
            {"config_hash": "c2"},
            r"^mine .* p\.h5 \(the weights are the same, but config\.json differs\) → rescan",
        ),
        (
            {"config_hash": "c2", "weights_hash": "w2"},
            r"^mine .* p\.h5 \(another model: config\.json and the weights differ\) → rescan",
        ),
        (
            {"config_hash": "memory:c", "weights_hash": "memory:w"},
            r"^p\.h5 is of files, mine of a model in memory: whether .* cannot be told → scan",
        ),
    ],
)
def test_another_model_is_told_from_another_fine_tune(changes: dict[str, str], said: str) -> None:
    found = {**FILES, "name": "mine", **changes}
    with pytest.raises(Stale, match=said) as caught:
        check_same_model(found, "mine", FILES, "p.h5", "rescan")
    assert "\n" not in str(caught.value)


def test_the_same_model_under_another_name_is_the_same() -> None:
    check_same_model({**FILES, "name": "/elsewhere"}, "elsewhere", FILES, "p.h5", "")


def test_it_is_checked_before_anything_is_measured(what: Subject) -> None:
    other = {**what.identity, "weights_hash": "memory:other"}
    with pytest.raises(Stale, match="another fine-tune"):
        measured_plan(Plan(()), replace(what, identity=other))
    half = subjects.subject("llama", torch.bfloat16)
    settings = {**half.profile.settings, "dtype": "float16"}
    profile = replace(half.profile, settings=settings)
    with pytest.raises(BadModel, match=r"in float16, and it runs in bfloat16 → load it in float16"):
        measured_plan(Plan(()), replace(half, profile=profile))
    settings = {**what.profile.settings, "dtype": "bfloat16"}  # and runs in float32
    profile = replace(what.profile, settings=settings)
    assert measured_plan(Plan(()), replace(what, profile=profile)).met
