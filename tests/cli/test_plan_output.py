"""Which files `fp8scope plan` writes, and which it leaves alone."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile

import pytest

from fp8scope.artefacts.plan_file import factors_path, read_factors, read_plan
from tests.cli.conftest import Fp8scope
from tests.shared import scan

PLAIN = ("--candidates", "fp8_tensor")
FOREIGN = b"somebody else's arrays"


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's: a plan smooths some of it."""
    path = tmp_path_factory.mktemp("profile") / "profile.h5"
    scan(path, "demo", "--samples", 8, "--seq-len", 48)
    return path


def test_factors_of_others_are_not_overwritten_unasked(
    fp8scope: Fp8scope, profile: Path, tmp_path: Path
) -> None:
    output, factors = tmp_path / "plan.json", tmp_path / "plan.npz"
    factors.write_bytes(FOREIGN)
    ran = fp8scope("plan", profile, "-o", output)
    assert (ran.code, factors.read_bytes(), output.exists()) == (2, FOREIGN, False)
    assert f"{factors} exists already → give another -o, or --force" in ran.refusal
    assert fp8scope("plan", profile, "-o", output, "--force").code == 0
    assert read_factors(read_plan(output), output)


def test_a_plan_without_factors_deletes_those_of_the_plan_before_alone(
    fp8scope: Fp8scope, profile: Path, tmp_path: Path
) -> None:
    output, factors = tmp_path / "plan.json", tmp_path / "plan.npz"
    assert fp8scope("plan", profile, "-o", output).code == 0
    assert factors.exists()
    assert fp8scope("plan", profile, "-o", output, "--force", *PLAIN).code == 0
    assert not factors.exists()
    factors.write_bytes(FOREIGN)
    assert fp8scope("plan", profile, "-o", output, "--force", *PLAIN).code == 0
    assert factors.read_bytes() == FOREIGN


@pytest.mark.parametrize(
    ("name", "factors"),
    [("plan.json", "plan.npz"), ("plan", "plan.npz"), ("plan.v2", "plan.v2.npz")],
)
def test_each_plan_has_factors_of_its_own(name: str, factors: str) -> None:
    assert factors_path(Path("to", name)) == Path("to", factors)


def test_what_the_plan_is_made_from_is_never_overwritten(
    fp8scope: Fp8scope, profile: Path, tmp_path: Path
) -> None:
    own = Path(copyfile(profile, tmp_path / "own.h5"))
    ran = fp8scope("plan", own, "-o", own, "--force")
    assert (ran.code, own.read_bytes()) == (2, profile.read_bytes())
    assert f"{own} is what the plan is made from → give another -o" in ran.refusal


@pytest.mark.parametrize("place", [".", "/"])
def test_a_folder_is_no_output(fp8scope: Fp8scope, profile: Path, place: str) -> None:
    ran = fp8scope("plan", profile, "-o", place, "--force")
    assert (ran.code, ran.refusal) == (
        2,
        f"fp8scope: {place} is a folder → give a file with -o",
    )


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("--dtype", "fp32"), "--dtype is for measuring → say of which model: --measure MODEL"),
    ],
)
def test_what_cannot_be_asked(
    fp8scope: Fp8scope, profile: Path, tmp_path: Path, words: tuple[str, ...], refusal: str
) -> None:
    ran = fp8scope("plan", profile, "-o", tmp_path / "plan.json", *words)
    assert (ran.code, ran.refusal) == (2, f"fp8scope: {refusal}")
    assert list(tmp_path.iterdir()) == []


def test_where_the_plan_cannot_be_written_no_factors_stay(
    fp8scope: Fp8scope, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full after the factors; the next try is not refused because of them."""
    whole = Path.replace

    def full(self: Path, to: Path) -> Path:
        if to.suffix == ".json":
            raise OSError(28, "No space left on device")
        return whole(self, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        ran = fp8scope("plan", profile, "-o", tmp_path / "plan.json")
    assert (ran.code, list(tmp_path.iterdir())) == (2, [])
    assert "No space left on device → make room there" in ran.refusal
    assert fp8scope("plan", profile, "-o", tmp_path / "plan.json").code == 0
