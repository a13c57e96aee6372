"""Every number that the overview can show is the number of `analyze --json`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8scope.analyze.analysis import analyze_profile
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.profile.record import Profile
from fp8scope.report.analysis import analysis_row
from fp8scope.report.measures import measures
from fp8scope.report.snapshot import Snapshot, filled, opened
from tests.profiles import build
from tests.tui.browsing import all_of_demo, demo, llama, mixture, planned, without_blocks

Json = dict[str, Any]


def whole(profile: Profile) -> Snapshot:
    return [*filled(opened(Path("profile.h5"), profile))][-1]


class Asked:
    """What `analyze --json` says of a module, found by names alone."""

    def __init__(self, profile: Profile) -> None:
        self.json: Json = analysis_row(analyze_profile(profile))
        self.groups = {member: row for row in self.json["groups"] for member in row["members"]}
        self.caches = {row["module"]: row for row in self.json["kv_cache"]}
        self.sites = {
            (module, row["role"]): row for row in self.json["rows"] for module in row["shared_by"]
        }

    def rows(self, module: str) -> list[Json]:
        roles = ("input", "weight", "k", "v")
        return [self.sites[module, role] for role in roles if (module, role) in self.sites]

    def plain_kl(self, module: str) -> float | None:
        if module in self.caches:
            found: float | None = self.caches[module]["kl_nats"]
            return found
        score = self.groups[module]["candidates"].get("fp8_tensor")
        return score["kl"] if score else None

    def cheapest(self, module: str) -> float | None:
        if module in self.caches:
            return self.plain_kl(module)
        found = self.groups[module]["candidates"]
        return min(
            (found[name]["kl"] for name in DEFAULT_CANDIDATES if name in found), default=None
        )

    def worst(self, field: str, worse: Callable[[list[float]], float]) -> Any:
        def of(module: str) -> float | None:
            values = [row[field] for row in self.rows(module) if row[field] is not None]
            return worse(values) if values else None

        return of

    def clip(self, tag: str) -> Any:
        def of(module: str) -> float | None:
            mine = {(row["module"], row["role"]) for row in self.rows(module)}
            clips = [
                saturation["clip"]
                for row in self.json["headroom"]
                if row["calibration"] == tag and (row["module"], row["role"]) in mine
                for saturation in row["tags"].values()
            ]
            return max(clips, default=None)

        return of


@pytest.mark.parametrize("make", [demo, llama, mixture, without_blocks])
def test_every_cell_by_every_measure(make: Callable[[], Profile]) -> None:
    profile = make()
    snapshot, asked = whole(profile), Asked(profile)
    expected: dict[str, Callable[[str], float | None]] = {
        "KL in fp8_tensor": asked.plain_kl,
        "KL in the cheapest FP8": asked.cheapest,
        "body SQNR": asked.worst("body_sqnr_db", min),
        "underflow": asked.worst("underflow_rate", max),
        "amax/rms of the body": asked.worst("amax_over_rms_body", max),
        "headroom": asked.worst("headroom", min),
        **{f"scales from {tag} alone, largest clip": asked.clip(tag) for tag in profile.tags},
    }
    shown = measures(snapshot)
    scored = 0 if profile.sensitivity else 2
    assert [one.name for one in shown] == list(expected)[scored:]
    modules = list(snapshot.grid.modules.values())
    assert len(modules) == len(profile.structure.linears) + len(profile.structure.kv_layers)
    for measure in shown:
        values = []
        for module in modules:
            reading = measure.of(snapshot, module)
            value = reading.value if reading else None
            assert value == expected[measure.name](module), (measure.name, module)
            values.append(value)
            if reading is not None:
                assert value is None or repr(value) in reading.detail
                assert isinstance(reading.tone, float)
                assert 0 <= reading.tone <= 1
        assert any(value is not None for value in values), measure.name


def test_the_worse_is_the_brighter_and_the_larger() -> None:
    snapshot = all_of_demo()
    by_name = {one.name: one for one in measures(snapshot)}
    bad, good = "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.o_proj"
    for name in ("KL in fp8_tensor", "body SQNR", "underflow", "amax/rms of the body", "headroom"):
        worse, better = (by_name[name].of(snapshot, module) for module in (bad, good))
        assert worse
        assert better
        assert worse.tone > better.tone, name  # type: ignore[operator]  # both are levels
        assert worse.badness > better.badness, name


def test_the_plan_by_name() -> None:
    profile = demo()
    plan = planned(profile)
    snapshot = replace(all_of_demo(), plan=plan)
    measure = measures(snapshot)[-1]
    assert measure.name == "planned precision"
    precision = {name: group.precision for group in plan.groups for name in group.members}
    precision |= {cache.attention: cache.precision for cache in plan.kv_cache}  # type: ignore[misc]
    found = {name: measure.of(snapshot, name) for name in snapshot.grid.modules.values()}
    assert {name: reading.value for name, reading in found.items() if reading} == precision
    assert len(set(precision.values())) > 1


def test_nothing_is_known_before_it_is_read() -> None:
    snapshot = opened(Path("profile.h5"), llama())
    known = {
        one.name: any(one.of(snapshot, m) for m in snapshot.grid.modules.values())
        for one in measures(snapshot)
    }
    assert [name for name, is_known in known.items() if is_known] == [
        "KL in fp8_tensor",
        "KL in the cheapest FP8",
    ]


def test_one_tag_has_no_headroom_and_no_scores_no_kl() -> None:
    names = [measure.name for measure in measures(whole(build(tags=("prose",))))]
    assert names == ["body SQNR", "underflow", "amax/rms of the body"]
