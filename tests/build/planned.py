"""Small models in folders, scanned for real, and plans of them that mix every precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import read_factors, read_plan, write_plan
from fp8scope.core.choices import Choices, Term
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.observe.scan import Scan, ScanOptions, Subject
from fp8scope.observe.sensitivity import SensitivityOptions
from fp8scope.plan.clusters import Cluster, Rules, clusters
from fp8scope.plan.make import PlanMaker
from fp8scope.plan.planner import Choice
from fp8scope.plan.problem import Way
from fp8scope.plan.settings import PlanSettings
from fp8scope.profile.record import Profile
from fp8scope.runtime.loading import LoadOptions, load
from fp8scope.runtime.sources import Source
from fp8scope.runtime.structure import discover
from fp8scope.runtime.text import Calibration, build_calibration, calibration_of_tokens
from tests import models
from tests.tokenizers import byte_tokenizer

MIX = ("fp8_smooth", "fp8_token", "fp8_tensor", "bf16")
WIDE = {"hidden_size": 256, "intermediate_size": 384, "head_dim": 64, "num_key_value_heads": 4}
LENGTHS = (33, 17, 28, 40, 25, 36)


@dataclass(frozen=True, eq=False)
class Scanned:
    """A model's folder and its profile; `text` is what the scan has not read."""

    folder: Path
    profile: Profile
    text: Calibration


@cache
def scanned(name: str, dtype: str = "float32", *, wide: bool = False) -> Scanned:
    """A small random model of tests/models.py by name, saved, loaded and scanned. Shared.

    wide: all its sides are multiples of 128, as blocks ask for.
    """
    folder = Path(mkdtemp(prefix=f"fp8scope-{name}-"))  # in the tests' own, see tests/conftest.py
    tokenizer = byte_tokenizer()
    model: Any = models.build(name, vocab_size=len(tokenizer), **(WIDE if wide else {}))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return scan(folder, dtype, tokens(len(tokenizer), 0), tokens(len(tokenizer), 1))


def scan(folder: Path, dtype: str, text: Calibration, held_out: Calibration) -> Scanned:
    loaded = load(str(folder), LoadOptions(dtype=dtype))
    structure = discover(loaded.model, loaded.tensor_shapes)
    subject = Subject(
        loaded.model, loaded.tokenizer, loaded.config, loaded.identity, structure, text
    )
    sensitivity = SensitivityOptions(samples=len(text.samples), choices=Choices(DEFAULT_CANDIDATES))
    options = ScanOptions("standard", 256, keep_every=1e9, sensitivity=sensitivity)
    return Scanned(folder, Scan(subject, options).run(), held_out)


def scan_text(folder: Path, path: Path, dtype: str = "float32") -> Scanned:
    """A trained model on a text file: 12 sequences of it to scan, the next ones held out."""
    loaded = load(str(folder), LoadOptions(dtype=dtype))
    whole = build_calibration(
        [Source("prose", str(path))], loaded.tokenizer, samples=24, seq_len=96, seed=0,
        context=128, vocab_size=None,
    )  # fmt: skip
    parts = [[s.tokens for s in whole.samples[half::2]] for half in (0, 1)]
    texts = [calibration_of_tokens(["prose"] * len(part), part) for part in parts]
    return scan(folder, dtype, *texts)


def tokens(vocabulary: int, seed: int) -> Calibration:
    draw = np.random.default_rng(seed)
    sizes = [draw.integers(3, vocabulary, size).astype(np.int32) for size in LENGTHS]
    return calibration_of_tokens(["prose", "code"] * 3, sizes)


def mixed_plan(
    what: Scanned, mix: Sequence[str] = MIX, *, cache: bool = True, **settings: Any
) -> tuple[Plan, dict[str, NDArray[np.float32]]]:
    """A plan in which clusters of groups take the precisions of `mix` in turn, where they can."""
    plan, factors = _mixed_plan(what, tuple(mix), cache, frozenset(settings.items()))
    return plan, dict(factors)


@cache
def _mixed_plan(
    what: Scanned, mix: tuple[str, ...], cache: bool, settings: frozenset[tuple[str, Any]]
) -> tuple[Plan, Mapping[str, NDArray[np.float32]]]:
    maker = PlanMaker(
        what.profile, PlanSettings(kv_cache="fp8" if cache else "bf16", **dict(settings))
    )
    planner = maker.planner
    problem = planner.problem(cache)
    rules = Rules(DEFAULT_CANDIDATES, planner.unseen, frozenset(), cache)
    found = clusters(what.profile.structure, planner.decided, planner.rows, rules)
    ways = tuple(
        Way(_closest(cluster, mix[number % len(mix)]), 0.0, 0.0, 0.0)
        for number, cluster in enumerate(found)
    )
    rows = [planner.rows[term] for way in ways for term in way.terms]
    nats, tags = planner.scores.together(rows)
    choice = Choice(problem, maker.objective, ways, nats, tags, 1.0, 8.0)
    return maker.plan(choice)


def _closest(cluster: Cluster, precision: str) -> tuple[Term, ...]:
    """The way with the most groups in `precision`, and among these the most that are quantized."""

    def groups(terms: tuple[Term, ...]) -> tuple[int, int]:
        names = {unit.name for unit in cluster.units}
        own = [term.candidate for term in terms if term.group in names]
        wanted = len(names) - len(own) if precision == "bf16" else own.count(precision)
        return wanted, len(own)

    return max(cluster.ways, key=groups)


def written(what: Scanned, folder: Path, **wishes: Any) -> tuple[Plan, dict[str, Any]]:
    """The plan as it is read back from `folder`."""
    path = folder / "plan.json"
    write_plan(*mixed_plan(what, **wishes), path)
    plan = read_plan(path)
    return plan, read_factors(plan, path)
