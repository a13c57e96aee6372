"""How long does a plan of a 70B model take? An invented profile of Llama-3-70B's shapes.

    python tests/bench/plan_speed.py [--blocks 80] [--folder DIR]

Every site and weight is there in its true size, and 64 sequences are scored in every candidate that
a scan scores by default; the KL of the groups is spread lognormally, and a few are ruined by plain
FP8. Seconds of the whole command, and of its steps inside one process that has them imported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fp8scope.core.choices import Choices, Term
from fp8scope.core.gemms import units
from fp8scope.core.magnitude import BF16
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import Linear, Structure
from fp8scope.plan.certainty import certainty
from fp8scope.plan.frontier import frontier
from fp8scope.plan.make import PlanMaker
from fp8scope.plan.settings import PlanSettings
from fp8scope.profile import layout
from fp8scope.profile.reader import open_profile
from fp8scope.profile.record import Profile, SiteRecord, WeightRecord, empty_arrays, empty_table
from fp8scope.profile.sensitivity import Sensitivity
from fp8scope.profile.writer import write_profile
from fp8scope.runtime.structure import discover
from tests import profiles

SEQUENCES, SCORED = 256, 64
TAGS = ("prose", "code", "chat")
LIMIT = 10.0  # seconds
MEDIAN_NATS, SPREAD_OF_GROUPS, SPREAD_OF_TERMS, SPREAD_OF_SEQUENCES = 3e-5, 1.0, 0.15, 0.5
TIMES = {"fp8_tensor": 1.0, "fp8_token": 0.9, "fp8_block": 0.9, "fp8_smooth": 0.95, "fp8_unit": 2}
RUINED, RUIN = 40, 3000.0
"""Plain FP8 costs every 40th group so many times as much."""


def structure(blocks: int) -> Structure:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=blocks,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    with torch.device("meta"):
        return discover(LlamaForCausalLM(config))


def profile(of: Structure) -> Profile:
    """Records of one shape are one object."""
    rng = np.random.default_rng(0)
    owners: dict[Site, int] = {}
    aliases = {}
    for group in of.groups:
        first, *others = (Site(name, Role.INPUT) for name in group.members)
        owners[first] = next(x.in_features for x in of.linears if x.name == first.module)
        aliases.update(dict.fromkeys(others, first))
    owners |= {Site(block, Role.RESIDUAL): 8192 for block in of.blocks}
    caches = {Site(x.attention, role) for x in of.kv_layers for role in (Role.K, Role.V)}
    widths = {channels: site_record(rng, channels) for channels in set(owners.values())}
    cache = site_record(rng, 1024, heads=8)
    shapes = {(x.out_features, x.in_features): weight_record(rng, x) for x in of.linears}
    built = profiles.build(
        indices=range(SEQUENCES),
        tags=TAGS,
        structure=of,
        sites={site: widths[owners[site]] for site in owners} | dict.fromkeys(caches, cache),
        weights={x.name: shapes[x.out_features, x.in_features] for x in of.linears},
        aliases=aliases,
        experts={},
        expert_weights={},
        excerpts=empty_table(layout.EXCERPT_COLUMNS),
    )
    built.model.update(architecture="LlamaForCausalLM", model_type="llama")
    built.samples["length"][:] = 2048
    built.sensitivity = sensitivity(of, built, rng)
    return built


def site_record(rng: np.random.Generator, channels: int, heads: int = 0) -> SiteRecord:
    record = SiteRecord.empty(
        BF16, tags=len(TAGS), samples=SEQUENCES, channels=channels, heads=heads
    )
    record.histogram[:] = profiles.counts(rng.normal(size=1 << 18))
    record.elements[:] = record.histogram.sum(axis=1)
    if record.head_histogram is not None:
        record.head_histogram[:] = record.histogram[0]
    record.channel_amax[:] = rng.lognormal(1, 1, record.channel_amax.shape)
    record.channel_sum_squares[:] = rng.lognormal(1, 1, channels)
    record.amax[:] = record.channel_amax.max(axis=1)
    record.token_amax[:] = profiles.counts(rng.lognormal(1, 1, 1 << 16))
    record.sequence_amax[:] = rng.lognormal(1, 1, SEQUENCES)
    return record


def weight_record(rng: np.random.Generator, linear: Linear) -> WeightRecord:
    shape = {"row": linear.out_features, "column": linear.in_features}
    arrays = empty_arrays(layout.WEIGHT_FIELDS, layout.fixed_dims(BF16) | shape, {""})
    for name in ("row_amax", "row_sum_squares", "column_amax", "column_sum_squares"):
        arrays[name][:] = rng.lognormal(-3, 0.3, arrays[name].shape)
    arrays["histogram"] += profiles.counts(rng.normal(size=1 << 18) / 30)
    arrays["elements"][0] = linear.out_features * linear.in_features
    arrays["amax"][0] = arrays["row_amax"].max()
    return WeightRecord(BF16, **arrays)


def sensitivity(of: Structure, built: Profile, rng: np.random.Generator) -> Sensitivity:
    """Rows of one group differ little beside how groups and sequences differ."""
    rows = Choices(DEFAULT_CANDIDATES).rows(of, units(of))
    table, samples = built.samples, range(0, SEQUENCES, SEQUENCES // SCORED)
    found = Sensitivity.empty(rows, samples, table["tag"], table["length"])
    groups = dict.fromkeys(term.group for row in rows for term in row.terms)
    nats = {
        group: MEDIAN_NATS
        * rng.lognormal(0, SPREAD_OF_GROUPS)
        * rng.lognormal(0, SPREAD_OF_SEQUENCES, SCORED)
        for group in groups
    }
    ruined = set(list(groups)[::RUINED])
    alone: dict[Term, Any] = {}
    for i, row in enumerate(rows):
        for term in row.terms:
            if term not in alone:
                bad = RUIN if term.group in ruined and term.candidate == "fp8_tensor" else 1.0
                times = bad * TIMES[term.candidate] * rng.lognormal(0, SPREAD_OF_TERMS)
                alone[term] = times * nats[term.group]
        found.kl_token[i] = sum(alone[term] for term in row.terms) * table["length"][found.samples]
        if found.kl_token[i].sum() > 0.1 * table["length"][found.samples].sum():
            found.kl_measured[i] = found.kl_token[i]
    found.kl_sequence[:] = found.kl_token * rng.chisquare(1, found.kl_token.shape)
    return found


def steps(path: Path) -> Mapping[str, float]:
    """Seconds of each step, in one process."""
    taken: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = step()
        taken[name] = round(time.perf_counter() - started, 2)
        return result

    opened = timed("open", lambda: open_profile(path))
    maker = timed("problem and budget", lambda: PlanMaker(opened, PlanSettings()))
    choice = timed("solve", maker.choose)
    timed("certainty", lambda: certainty(choice))
    timed("frontier", lambda: frontier(choice.problem))
    timed("plan, certainty and frontier again", lambda: maker.plan(choice))
    return taken


def command(path: Path, options: str) -> float:
    """Seconds of `fp8scope plan`, whole."""
    output = path.with_name("plan.json")
    line = [sys.executable, "-m", "fp8scope", "plan", str(path), "-o", str(output), "--force"]
    started = time.perf_counter()
    subprocess.run([*line, "--json", *options.split()], check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - started, 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=80)
    parser.add_argument("--folder", type=Path, help="where the profile is kept")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        path = (given.folder or Path(temporary)) / "70b.h5"
        if not path.exists():
            write_profile(profile(structure(given.blocks)), path, compression=1)
        asked = ("", "--max-kl 0.005", "--effective-bits 9 --kv-cache auto")
        commands = {f"plan {options}".strip(): command(path, options) for options in asked}
        found = {
            "blocks": given.blocks,
            "profile, MB": round(path.stat().st_size / 1e6),
            "commands": commands,
            "steps": steps(path),
            "within": max(commands.values()) <= LIMIT,
        }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
