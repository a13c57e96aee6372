"""`--resume` and `--force`: what is gone on from, what is refused, and what is never deleted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from fp8scope.errors import CannotWrite
from fp8scope.observe import scan as observe
from fp8scope.observe.provenance import environment, excerpt_table
from fp8scope.observe.recorder import Recorder
from fp8scope.profile.partial import Partials
from fp8scope.profile.reader import read_profile
from tests.cli.conftest import Fp8scope, InterruptAt, Ran
from tests.observe import scans


def _advice(ran: Ran) -> list[str]:
    """The words of the command that the refusal advises."""
    return shlex.split(ran.refusal.partition("go on with: fp8scope ")[2])


@pytest.mark.parametrize("batches", [1, 4, 6])
def test_ctrl_c_keeps_and_resume_finishes(
    batches: int, scan: Fp8scope, tmp_path: Path, interrupt_at: InterruptAt
) -> None:
    whole, output = tmp_path / "whole.h5", tmp_path / "out.h5"
    assert scan("-o", whole).code == 0
    with interrupt_at(Recorder, "run", call=batches):
        ran = scan()
    assert ran.code == 130
    assert "stopping after this batch" in ran.err
    assert f"stopped after {batches} of 6 batches" in ran.refusal
    assert _advice(ran)[-1] == "--resume"
    assert not output.exists()
    assert Partials(output).exist()

    again = scan()
    assert again.code == 2
    assert "--resume" in again.refusal
    assert "--force" in again.refusal
    other = scan("--resume", "--seed", 5)
    assert other.code == 2
    assert "the seed differs (0 there, 5 asked)" in other.refusal
    assert "the text" not in other.refusal
    assert "resuming" not in other.err
    assert Partials(output).exist()

    resumed = scan("--resume")
    assert resumed.code == 0, resumed.err
    assert f"resuming after {batches} batches" in resumed.err
    assert not Partials(output).exist()
    scans.assert_identical(read_profile(output), read_profile(whole))


def test_the_advice_after_force_overwrites_the_old_profile(
    fp8scope: Fp8scope, scan: Fp8scope, tmp_path: Path, interrupt_at: InterruptAt
) -> None:
    output, whole = tmp_path / "out.h5", tmp_path / "whole.h5"
    assert scan("--seed", 1).code == 0
    assert scan("-o", whole).code == 0
    old = output.read_bytes()
    with interrupt_at(Recorder, "run", call=3):
        ran = scan("--force")
    assert {"--force", "--resume"} <= set(_advice(ran))
    assert output.read_bytes() == old

    refused = scan("--resume")  # without --force nothing of either may go
    assert refused.code == 2
    assert "out.h5 is of another scan: the seed differs (1 there, 0 asked)" in refused.refusal
    assert output.read_bytes() == old
    assert Partials(output).exist()

    resumed = fp8scope(*_advice(ran))
    assert resumed.code == 0, resumed.err
    assert "resuming after 3 batches" in resumed.err
    scans.assert_identical(read_profile(output), read_profile(whole))
    assert not Partials(output).exist()


def test_resume_of_a_complete_scan(fp8scope: Fp8scope, scan: Fp8scope, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    assert scan().code == 0
    before = output.read_bytes()
    partials = Partials(output)
    partials.save(read_profile(output))  # as after a kill between the last two steps
    complete = scan("--resume", "--json")
    assert complete.code == 0
    assert json.loads(complete.out)["profile"] == str(output)
    assert f"{output} is complete already: nothing to resume; next: " in complete.err
    assert "wrote" not in complete.err
    assert output.read_bytes() == before
    assert not partials.exist()


def test_another_spelling_of_the_model_is_the_same_model(
    fp8scope: Fp8scope, scan: Fp8scope, model: Path, tmp_path: Path
) -> None:
    assert scan().code == 0
    words = ["--calib", model / "text.txt", "--seq-len", 32, "--samples", 6, "--batch-tokens", 32]
    ran = fp8scope("scan", f"{model}/", *words, "-o", tmp_path / "out.h5", "--resume")
    assert ran.code == 0, ran.err


def test_resume_of_another_scans_profile_is_refused(
    fp8scope: Fp8scope, scan: Fp8scope, model: Path, tmp_path: Path
) -> None:
    output, text = tmp_path / "out.h5", tmp_path / "other.txt"
    text.write_text((model / "text.txt").read_text().replace("truth", "lie"))
    assert scan().code == 0
    before = output.read_bytes()
    words = ["--seq-len", 32, "--samples", 6, "--batch-tokens", 32, "-o", output, "--resume"]
    other_text = fp8scope("scan", model, "--calib", text, *words)
    for ran, said in (
        (other_text, "the text differs"),
        (scan("--resume", "--dtype", "float32"), "dtype differs (bfloat16 there, float32 asked)"),
    ):
        assert ran.code == 2
        assert f"{output} is of another scan: " in ran.refusal
        assert said in ran.refusal
        assert "then," not in ran.refusal
        assert ran.out == ""
        assert output.read_bytes() == before
    nowhere = fp8scope("scan", "./nowhere", "--calib", text, *words)
    assert nowhere.code == 2
    assert "no folder ./nowhere" in nowhere.refusal


def test_force_drops_a_kept_partial(
    scan: Fp8scope, tmp_path: Path, interrupt_at: InterruptAt
) -> None:
    with interrupt_at(Recorder, "run", call=2):
        assert scan().code == 130
    assert scan("--force", "--seed", 3).code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]
    assert read_profile(tmp_path / "out.h5").settings["seed"] == 3


def test_resume_without_a_partial_starts_anew(scan: Fp8scope, tmp_path: Path) -> None:
    ran = scan("--resume")
    assert ran.code == 0
    assert "starting anew" in ran.err
    assert (tmp_path / "out.h5").exists()


def test_an_unreadable_partial_is_refused(scan: Fp8scope, tmp_path: Path) -> None:
    for path in Partials(tmp_path / "out.h5").paths:
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    ran = scan("--resume")
    assert ran.code == 2
    assert "--force" in ran.refusal


def test_another_torch_is_said_and_noted(
    scan: Fp8scope, tmp_path: Path, interrupt_at: InterruptAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    with interrupt_at(Recorder, "run", call=2):
        assert scan().code == 130
    monkeypatch.setattr(observe, "environment", lambda model: environment(model) | {"torch": "9.9"})
    ran = scan("--resume")
    assert ran.code == 0
    assert "warning: resumed with another torch" in ran.err
    notes = read_profile(tmp_path / "out.h5").notes
    assert [note for note in notes if "then 9.9): not bit-identical" in note]


# --- what cannot be written --------------------------------------------------------------------


def test_an_output_that_appears_meanwhile_is_not_overwritten(
    fp8scope: Fp8scope, scan: Fp8scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.h5"

    def appear(*arguments: object) -> object:
        output.write_text("mine")
        return excerpt_table(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(observe, "excerpt_table", appear)
        ran = scan()
    assert ran.code == 2
    assert f"{output} appeared while the scan ran → move it away; go on with: " in ran.refusal
    assert output.read_text() == "mine"
    output.unlink()
    assert fp8scope(*_advice(ran)).code == 0
    assert "resuming" not in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


def test_a_final_write_that_fails_keeps_the_work(
    fp8scope: Fp8scope, scan: Fp8scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object, path: Path) -> None:
        raise CannotWrite(f"cannot write {path}: No space left on device", "make room there")

    with monkeypatch.context() as patch:
        patch.setattr("fp8scope.profile.writer.write_profile", full)
        ran = scan()
    assert ran.code == 2
    assert "No space left on device → make room there; go on with: fp8scope scan" in ran.refusal
    kept = Partials(tmp_path / "out.h5").load()
    assert kept is not None
    assert kept.batches_done == 6
    assert not kept.complete
    resumed = fp8scope(*_advice(ran))
    assert resumed.code == 0
    assert "resuming after 6 batches" in resumed.err


def test_an_internal_error_says_how_to_go_on(
    scan: Fp8scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise TypeError("no such\nthing")

    monkeypatch.setattr(observe, "excerpt_table", broken)
    ran = scan("--keep-every", 0)
    assert ran.code == 70
    assert "internal error: TypeError: no such thing → " in ran.refusal
    assert "FP8SCOPE_TRACEBACK=1" in ran.refusal
    assert _advice(ran)[-1] == "--resume"
    assert Partials(tmp_path / "out.h5").exist()
    monkeypatch.setenv("FP8SCOPE_TRACEBACK", "1")
    ran = scan("--resume")
    assert ran.code == 70
    assert "Traceback" in ran.err
    assert "in broken" in ran.err
