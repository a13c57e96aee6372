"""plan.json and plan.npz on disk: every damage is told, and nothing is half-written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fp8scope.artefacts import plan_file
from fp8scope.artefacts.atomic import temporary_path, write_atomically
from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import factors_path, read_factors, read_plan, write_plan
from fp8scope.errors import BadInput, CannotWrite, DamagedPlan, NotAPlan, PlanVersion
from tests.plan.test_plan import made

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_plan(*made(), tmp_path / "plan.json")
    return tmp_path / "plan.json"


def edited(path: Path, change: Edit) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def group(data: dict[str, Any], **changes: Any) -> None:
    data["groups"][0].update(changes)


EDITS: dict[str, tuple[Edit, type[BadInput], str]] = {
    "format": (lambda d: d.update(format="plan"), NotAPlan, "is no plan of fp8scope"),
    "no format": (lambda d: d.pop("format"), NotAPlan, "is no plan of fp8scope"),
    "version": (lambda d: d.update(version=2), PlanVersion, "of version 2, this release reads 1"),
    "precision": (lambda d: group(d, precision="fp4"), DamagedPlan, "groups.0.precision: Input"),
    "other precision": (
        lambda d: group(d, precision="bf16"),
        DamagedPlan,
        "ignore and groups disagree on model.layers.0.self_attn.q",
    ),
    "ignore": (lambda d: d["ignore"].pop(), DamagedPlan, "ignore and groups disagree on lm_head"),
    "a module gone": (
        lambda d: d["modules"].pop(0),
        DamagedPlan,
        "model.layers.0.self_attn.q is in a group, and is no module",
    ),
    "unknown field": (lambda d: d.update(extra=1), DamagedPlan, "extra: Extra inputs"),
    "missing field": (lambda d: d.pop("folds"), DamagedPlan, "folds: Field required"),
    "NaN": (lambda d: d["objective"].update(value=math.nan), DamagedPlan, "objective.value: "),
    "words": (lambda d: d["cost"].update(batch="many"), DamagedPlan, "cost.batch: "),
    "hash": (lambda d: d["factors"].update(sha256="0"), DamagedPlan, "factors.sha256"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_plan(name: str, path: Path) -> None:
    change, refusal, said = EDITS[name]
    edited(path, change)
    with pytest.raises(refusal) as refused:
        read_plan(path)
    assert type(refused.value) is refusal
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_plan(kept: float, path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(NotAPlan, match="is not JSON, or cut off"):
        read_plan(path)


@pytest.mark.parametrize(
    "data", [b"[]", b"null", b'"fp8scope-plan"', b"\xff\xfe{}", b"[" * 100_000]
)
def test_what_is_no_plan(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    with pytest.raises(NotAPlan):
        read_plan(path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(BadInput, match=r"cannot be read \((Is a directory|No such file)"):
            read_plan(place)


# ---- the factors


def swap(path: Path) -> None:
    """Another plan's factors."""
    other = {"fold_0000": np.full(8, 3, np.float32)}
    factors_path(path).write_bytes(plan_file._npz(other))


def flip(path: Path) -> None:
    data = bytearray(factors_path(path).read_bytes())
    data[len(data) // 2] ^= 1
    factors_path(path).write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda path: factors_path(path).unlink(),
            "smoothing factors cannot be read (No such file",
        ),
        (swap, "these are not the factors of "),
        (flip, "these are not the factors of "),
        (lambda path: factors_path(path).write_bytes(b""), "these are not the factors of "),
    ],
)
def test_factors_that_are_not_the_plans(
    spoil: Callable[[Path], None], said: str, path: Path
) -> None:
    plan = read_plan(path)
    spoil(path)
    with pytest.raises(DamagedPlan) as refused:
        read_factors(plan, path)
    assert said in str(refused.value)
    assert "make it again with fp8scope plan" in str(refused.value)


def test_a_fold_without_factors(path: Path) -> None:
    plan, _ = made()
    written = write_plan(plan, {"fold_0009": np.ones(8, np.float32)}, path)
    with pytest.raises(DamagedPlan, match="no factors fold_0000"):
        read_factors(written, path)


def test_folds_that_name_no_factors(path: Path) -> None:
    edited(path, lambda data: data.update(factors=None))
    with pytest.raises(DamagedPlan, match="it folds, and names no factors"):
        read_factors(read_plan(path), path)


def test_factors_are_looked_for_beside_the_plan_alone(path: Path, tmp_path: Path) -> None:
    """A plan from elsewhere names no place outside its folder."""
    edited(path, lambda data: data["factors"].update(file="../../plan.npz"))
    assert read_factors(read_plan(path), path)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    path.rename(moved / "plan.json")
    with pytest.raises(DamagedPlan, match="cannot be read"):
        read_factors(read_plan(moved / "plan.json"), moved / "plan.json")


# ---- writing


def without_folds() -> Plan:
    """All of made() but its folds."""
    return made()[0].model_copy(update={"folds": ()})


def test_a_plan_without_factors_leaves_none_of_an_older_one(path: Path) -> None:
    written = write_plan(without_folds(), {}, path)
    assert written.factors is None
    assert not factors_path(path).exists()
    assert read_factors(read_plan(path), path) == {}


def test_killed_between_factors_and_plan(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older plan is whole, but its factors are gone: refused, not mixed up."""
    before = path.read_bytes()
    plan, factors = made()
    changed = {key: array * 2 for key, array in factors.items()}

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(plan_file, "plan_text", killed)
        with pytest.raises(KeyboardInterrupt):
            write_plan(plan, changed, path)
    assert path.read_bytes() == before
    with pytest.raises(DamagedPlan, match="these are not the factors of"):
        read_factors(read_plan(path), path)
    write_plan(plan, changed, path)
    assert np.array_equal(read_factors(read_plan(path), path)["fold_0000"], changed["fold_0000"])


def test_a_full_disk_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(CannotWrite, match="No space left on device"):
            write_atomically(path, b"new")
    assert path.read_bytes() == before
    assert not temporary_path(path).exists()
    with pytest.raises(CannotWrite, match="cannot write"):
        write_atomically(path / "below" / "plan.json", b"new")
