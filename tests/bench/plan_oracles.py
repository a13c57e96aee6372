"""Is a planted outlier remedied, and nothing else? The demo and planted models under `balanced`.

    python tests/bench/plan_oracles.py [--model NAME …] [--layers 1 3] [--strengths 1e5 1e6]

Plants in the small trained models of ../shared/data (see tests/planting.py), scans, plans, and
measures the plan on other text. A line of JSON each: what is in BF16 and what is not plain FP8;
the KL of the touched groups by themselves, plain and as planned, and plain in the model without the
plant; bits per weight; the KL of the whole plan, and of the model without the plant all in plain
FP8. It is right where the touched groups, and the whole, cost at most 1.2 times what they cost
without the plant, where all that is harmed and can be smoothed is, and no other group is in BF16.
Models without a plant come first, under every preset: `balanced` may leave nothing in BF16.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fp8scope.core.choices import Term
from fp8scope.demo.build import read_batches
from fp8scope.demo.files import DEMO_MODEL, DEMO_TEXT
from fp8scope.plan.objective import PRESETS, Limit, Objective
from fp8scope.plan.planner import Choice, Planner
from fp8scope.profile.record import Profile
from tests import planting
from tests.bench.planned import HeldOut, Texts, planner, rows_of, scanned
from tests.demo.test_demo import MANIFEST, demo_model, reference

CALIBRATION, HELD_OUT = 20_000, 300_000  # characters into each text
LENGTH = 128
MOST = 1.2
"""Times the KL without the plant."""
HARMED = 2
"""A group is where plain FP8 costs more than so many times what it costs without the plant."""


class Subject(NamedTuple):
    """A scanned model, its plans, and other text."""

    profile: Profile
    planner: Planner
    held_out: HeldOut

    @classmethod
    def of(cls, model: Any, calibration: Texts, held_out: Texts) -> Subject:
        profile = scanned(model, calibration)
        return cls(profile, planner(profile), HeldOut(model, profile, held_out))

    @property
    def groups(self) -> list[str]:
        return [unit.name for unit in self.planner.decided]

    def budget(self, preset: str) -> float:
        return self.planner.budget(PRESETS[preset])

    def plan(self, preset: str) -> Choice:
        return self.planner.choose(Objective(Limit.KL, self.budget(preset)))

    def kl(self, terms: Iterable[Term]) -> float:
        return self.held_out.mean(self.held_out.nats(terms)).kl

    def plain(self, groups: Iterable[str]) -> float:
        """KL of these groups in plain FP8, the others in BF16."""
        return self.kl(Term(group, "fp8_tensor") for group in groups)

    def shown(self, choice: Choice) -> dict[str, Any]:
        """The plan, what it was to cost, and what it costs."""
        quantized = {term.group for term in choice.terms}
        special = [term for term in choice.terms if term != Term(term.group, "fp8_tensor")]
        return {
            "bf16": [short(group) for group in self.groups if group not in quantized],
            "special": [shown(term) for term in special],
            "bits": round(choice.bits, 2),
            "predicted": round(choice.nats.kl, 5),
            "measured": round(self.kl(choice.terms), 5),
        }


def unplanted(name: str, subject: Subject, preset: str) -> dict[str, Any]:
    """A preset's plan of a model as it is."""
    return {
        "model": name,
        "preset": preset,
        "budget": round(subject.budget(preset), 5),
        **subject.shown(subject.plan(preset)),
        "all plain": round(subject.plain(subject.groups), 5),
    }


def planted(
    title: dict[str, Any], subject: Subject, without: Subject, touched: set[str]
) -> dict[str, Any]:
    """The balanced plan of a planted model, beside the model without the plant."""
    choice = subject.plan("balanced")
    mine = [term for term in choice.terms if term.group in touched]
    harmed = {
        group for group in touched if subject.plain([group]) > HARMED * without.plain([group])
    }
    foldable = {unit.name for unit in subject.planner.decided if unit.smoothable}
    smoothed = {term.group for term in mine if term.alpha is not None or term.folded is not None}
    left = set(subject.groups) - {term.group for term in choice.terms}
    planned, before = subject.kl(mine), without.plain(touched)
    own, base = subject.kl(choice.terms), without.plain(without.groups)
    right = {
        "remedied": planned <= MOST * before,
        "smoothed": harmed & foldable <= smoothed,
        "nothing else": left <= touched,
        "as good": own <= MOST * base,
    }
    return {
        **title,
        "touched": sorted(map(short, touched)),
        "harmed": sorted(map(short, harmed)),
        "touched, plain": round(subject.plain(touched), 5),
        "touched, planned": round(planned, 5),
        "touched, without the plant": round(before, 5),
        **subject.shown(choice),
        "all plain, without the plant": round(base, 5),
        "ratio": round(own / base, 3),
        "wrong": [what for what, found in right.items() if not found],
    }


def shown(term: Term) -> str:
    alpha = f" α={term.alpha}" if term.alpha is not None else ""
    folded = f" rows α={term.folded}" if term.folded is not None else ""
    return f"{short(term.group)} {term.candidate}{alpha}{folded}"


def short(name: str) -> str:
    return name.removeprefix("model.layers.")


def touched_groups(model: Any, before: Any, profile: Profile) -> set[str]:
    """Groups of which a weight is not as it was."""
    own, other = model.state_dict(), before.state_dict()
    return {
        group.name
        for group in profile.structure.groups
        for name in group.members
        if not torch.equal(own[f"{name}.weight"], other[f"{name}.weight"])
    }


def demo_texts() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sequences of the demo's text by turns: those to scan, those to measure on.

    Those of a tag are cut to the median of their lengths; shorter ones are left out.
    """
    from transformers import AutoTokenizer

    read = read_batches(demo_model(), AutoTokenizer.from_pretrained(DEMO_MODEL), DEMO_TEXT)
    rows = {}
    for tag, parts in read.items():
        lengths = sorted(ids.shape[1] for ids in parts for _ in ids)
        length = lengths[len(lengths) // 2]
        rows[tag] = torch.cat([ids[:, :length] for ids in parts if ids.shape[1] >= length])
    return {t: ids[::2] for t, ids in rows.items()}, {t: ids[1::2] for t, ids in rows.items()}


def of_demo() -> Iterator[dict[str, Any]]:
    calibration, held_out = demo_texts()
    without = Subject.of(reference(), calibration, held_out)
    for preset in PRESETS:
        yield unplanted("the demo's reference", without, preset)
    subject = Subject.of(demo_model(), calibration, held_out)
    groups = {group.members: group.name for group in subject.profile.structure.groups}
    plants = MANIFEST["plants"]
    touched = {groups[tuple(members)] for plant in plants for members in plant["groups"]}
    yield planted({"model": "demo"}, subject, without, touched)


def of_model(name: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    calibration, held_out = (
        rows_of(name, start, arguments.sequences, LENGTH) for start in (CALIBRATION, HELD_OUT)
    )
    bare = Subject.of(planting.load(name)[0], calibration, held_out)
    for preset in PRESETS:
        yield unplanted(name, bare, preset)
    for kind, strength, layer in product(planting.KINDS, arguments.strengths, arguments.layers):
        model, before, _ = planting.planted(name, {layer: kind}, strength)
        subject = Subject.of(model, calibration, held_out)
        silent = kind in planting.SILENT
        without = Subject.of(before, calibration, held_out) if silent else bare
        touched = touched_groups(model, planting.load(name)[0], subject.profile)
        title = {"model": name, "kind": kind, "strength": strength, "layer": layer}
        yield planted(title, subject, without, touched)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", nargs="*", default=("demo", *planting.MODELS))
    parser.add_argument("--layers", type=int, nargs="*", default=[1, 3])
    parser.add_argument("--strengths", type=float, nargs="*", default=[1e5, 1e6])
    parser.add_argument("--sequences", type=int, default=32, help="of each text, for each part")
    arguments = parser.parse_args()
    wrong = total = 0
    for name in arguments.model:
        if name != "demo" and not planting.DATA.is_dir():
            print(f"{name} is skipped: no {planting.DATA}")
            continue
        for line in of_demo() if name == "demo" else of_model(name, arguments):
            print(json.dumps(line, ensure_ascii=False), flush=True)
            if line.get("preset", "balanced") == "balanced":
                wrong += bool(line.get("wrong", line["bf16"]))
                total += 1
    print(f"under balanced {total - wrong} of {total} right")


if __name__ == "__main__":
    main()
