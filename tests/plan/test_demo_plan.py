"""The demo's plan: of its whole text, and of the merged scans of its halves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import plan_text
from fp8scope.demo.files import DEMO_MODEL, demo_sources
from fp8scope.plan.make import make_plan
from fp8scope.plan.settings import PlanSettings
from fp8scope.profile.merge import merge_profiles
from fp8scope.profile.reader import read_profile
from fp8scope.profile.record import Profile
from tests.shared import scan, whole_demo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return read_profile(whole_demo(tmp_path_factory))


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[Profile]:
    """The first half of the lines of each text, and the second."""
    found = []
    for half in (0, 1):
        folder = tmp_path_factory.mktemp("half")
        options: list[object] = []
        for source in demo_sources():
            lines = Path(source.location).read_text(encoding="utf-8").splitlines(keepends=True)
            cut = len(lines) // 2
            path = folder / Path(source.location).name
            path.write_text("".join(lines[cut:] if half else lines[:cut]), encoding="utf-8")
            options += ["--calib", f"{source.tag}={path}"]
        scan(folder / "profile.h5", DEMO_MODEL, *options, "--json")
        found.append(read_profile(folder / "profile.h5"))
    return found


def plan_of(parts: Sequence[Profile], settings: PlanSettings | None = None) -> Plan:
    return make_plan(merge_profiles(parts) if len(parts) > 1 else parts[0], settings)[0]


def precisions(plan: Plan) -> dict[str, str]:
    return {group.name: group.precision for group in plan.groups}


def test_twice_the_same_plan(whole: Profile) -> None:
    assert plan_text(plan_of([whole])) == plan_text(plan_of([whole]))


PLANTED = [f"model.layers.{layer}.mlp.down_proj" for layer in (0, 1, 3)]
PLANTED += ["model.layers.2.self_attn.qkv"]


def test_halves_give_the_plan_of_the_whole(whole: Profile, halves: list[Profile]) -> None:
    """Which labels were drawn, and the static scales of each half, leave some noise: whether a
    remedy saves a quarter may turn out otherwise where nothing is wrong.
    """
    expected = plan_of([whole])
    for parts in (halves, halves[::-1]):
        plan = plan_of(parts)
        found, wanted = precisions(plan), precisions(expected)
        assert plan.ignore == expected.ignore == ("lm_head",)
        for name in PLANTED:
            assert found[name] == wanted[name] == "fp8_smooth"
        assert plan.predicted.nats.kl == pytest.approx(expected.predicted.nats.kl, rel=0.05)


@pytest.mark.parametrize("bits", [9, 10.5])
def test_halves_give_the_same_exclusions(
    whole: Profile, halves: list[Profile], bits: float
) -> None:
    settings = PlanSettings(effective_bits=bits, candidates=("fp8_tensor",))
    assert precisions(plan_of(halves, settings)) == precisions(plan_of([whole], settings))


def test_more_bits_and_more_nats_never_make_it_worse(whole: Profile) -> None:
    def predicted(**asked: float) -> tuple[float, float]:
        found = make_plan(whole, PlanSettings(**asked))[0].predicted  # type: ignore[arg-type]
        return found.nats.kl, found.step_time_us

    kls = [predicted(effective_bits=8 + step / 2)[0] for step in range(17)]
    assert kls == sorted(kls, reverse=True)
    times = [predicted(max_kl=step / 1000)[1] for step in range(0, 10, 2)]
    assert times == sorted(times, reverse=True)
