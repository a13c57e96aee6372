"""`compare` from the command line: what it prints, when its gate fails, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fp8scope.analyze import compare as analysis
from fp8scope.profile.record import Profile
from fp8scope.profile.writer import write_profile
from tests.analyze.sites import of_amax, of_values
from tests.cli.conftest import Fp8scope, InterruptAt
from tests.profiles import CHANNELS, Q_INPUT, build

CALIBRATION = [8.0] * 20
DRIFTED = [8.0] * 10 + [32.0] * 10


def write(profile: Profile, path: Path) -> Path:
    write_profile(profile, path)
    return path


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return write(of_amax(("prose",), *CALIBRATION), tmp_path / "a.h5")


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return write(of_amax(("prose", "code"), *DRIFTED), tmp_path / "b.h5")


def test_what_changed_is_said_worst_first(fp8scope: Fp8scope, a: Path, b: Path) -> None:
    ran = fp8scope("compare", a, b)
    assert (ran.code, ran.err) == (0, "")
    said = " ".join(ran.out.split())
    assert "A's static scales clip B at 1 of 1 sites, worst layers.0.self_attn.q_proj" in said
    assert "in 50% of the sequences of prose (24% to 76%), by more than 20% in 50%" in said
    assert "the largest 4.00× over" in said
    assert "8 → 32 (4.00×)" in said
    assert "All 2 weights are the same." in said
    assert "Tags of B that A does not have: code." in said
    assert "input 8 32 4.00× 50% 50% 1.6%" in said


def test_the_table_fits_the_terminal(
    fp8scope: Fp8scope, a: Path, b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns, last in ((80, "20%"), (160, "A → B")):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = fp8scope("compare", a, b).out.splitlines()
        assert max(map(len, lines)) <= columns
        assert lines[-3].rstrip().endswith(last)


def test_nothing_changed(fp8scope: Fp8scope, a: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(a, tmp_path / "copy.h5"))
    ran = fp8scope("compare", a, copy, "--fail-above", 0)
    assert (ran.code, ran.err) == (0, "")
    assert "clip nothing of B at any of 1 sites" in ran.out
    assert "Every amax is the same." in ran.out


def test_the_gate(fp8scope: Fp8scope, a: Path, b: Path) -> None:
    ran = fp8scope("compare", a, b, "--fail-above", 0.05)
    assert ran.code == 1
    assert "A's static scales clip B" in ran.out
    assert ran.refusal == (
        "fp8scope: model.layers.0.self_attn.q_proj input: A's scale clips 10 of 20 sequences of "
        "all text by more than 20%, at 95% confidence over 30% of such text; the limit is 5% → "
        "calibrate with text like B, or use dynamic scales"
    )
    assert fp8scope("compare", a, b, "--fail-above", 0.31).code == 0
    assert fp8scope("compare", a, b, "--fail-above", 1).code == 0
    assert fp8scope("compare", b, a, "--fail-above", 0).code == 0


def test_json_is_whole_where_the_gate_fails(fp8scope: Fp8scope, a: Path, b: Path) -> None:
    ran = fp8scope("compare", a, b, "--fail-above", 0.05, "--json")
    assert ran.code == 1
    found = json.loads(ran.out)
    assert found["drift"] == pytest.approx(0.299, abs=0.001)
    assert (found["a"], found["b"], found["fail_above"]) == (str(a), str(b), 0.05)
    (site,) = found["sites"]
    assert (site["module"], site["role"]) == Q_INPUT
    assert site["under_scale_of_a"]["all"]["far_sequences"] == 10
    assert site["under_scale_of_a"]["tags"]["code"]["far_sequences"] == 5
    assert found["tags_only_b"] == ["code"]


def test_an_infinite_ratio_is_null(fp8scope: Fp8scope, a: Path, tmp_path: Path) -> None:
    zero = [np.zeros((4, CHANNELS), np.float32)] * 20
    silent = write(of_values(("prose",), *zero), tmp_path / "silent.h5")
    (site,) = json.loads(fp8scope("compare", silent, a, "--json").out)["sites"]
    assert site["amax_ratio"] is None


@pytest.mark.parametrize("limit", ["-0.1", "1.1", "nan", "much"])
def test_a_limit_is_a_share(limit: str, fp8scope: Fp8scope, a: Path, b: Path) -> None:
    ran = fp8scope("compare", a, b, "--fail-above", limit)
    assert (ran.code, ran.out) == (2, "")
    assert "--fail-above" in ran.refusal


def _foreign(path: Path) -> None:
    path.write_text("hello")


def _partial(path: Path) -> None:
    write_profile(build(complete=False), path)


def _damaged(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_foreign, "not an fp8scope profile"),
        (_partial, "unfinished"),
        (_damaged, "truncated or corrupt"),
        (_gone, "No such file"),
    ],
)
def test_a_file_that_cannot_be_read(
    spoil: Any, said: str, which: int, fp8scope: Fp8scope, a: Path, b: Path
) -> None:
    spoil((a, b)[which])
    ran = fp8scope("compare", a, b, "--fail-above", 0.1)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.refusal
    assert str((a, b)[which]) in ran.refusal


def test_one_file_twice(fp8scope: Fp8scope, a: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.h5"
    link.symlink_to(a)
    for other in (a, link):
        ran = fp8scope("compare", a, other)
        assert (ran.code, ran.out) == (2, "")
        assert "are one file → give two profiles" in ran.refusal


def test_models_without_a_common_layer(fp8scope: Fp8scope, a: Path, tmp_path: Path) -> None:
    other = build()
    other.sites = {Q_INPUT._replace(module="h.0.q"): other.sites[Q_INPUT]}
    other.aliases = {}
    ran = fp8scope("compare", a, write(other, tmp_path / "other.h5"))
    assert (ran.code, ran.out) == (2, "")
    assert "have no layer of the same name and width" in ran.refusal


def test_ctrl_c(fp8scope: Fp8scope, a: Path, b: Path, interrupt_at: InterruptAt) -> None:
    with interrupt_at(analysis, "compare_profiles"):
        ran = fp8scope("compare", a, b)
    assert (ran.code, ran.out) == (130, "")
    assert ran.refusal == "fp8scope: interrupted"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_two_profiles_are_compared(count: int, fp8scope: Fp8scope, a: Path) -> None:
    ran = fp8scope("compare", *[a] * count)
    assert ran.code == 2
    assert "--help" in ran.refusal
