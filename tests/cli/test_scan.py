"""`scan` and `merge` from the command line: what they write, and how a scan goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Thread

import numpy as np

from fp8scope.profile.reader import read_profile
from tests.cli import folders
from tests.cli.conftest import Fp8scope
from tests.observe import scans

COMMAND = [sys.executable, "-W", "ignore", "-m", "fp8scope"]


def test_scan_writes_a_profile_and_json(scan: Fp8scope, tmp_path: Path) -> None:
    ran = scan("--json")
    assert ran.code == 0
    data = json.loads(ran.out)
    path = tmp_path / "out.h5"
    profile = read_profile(path)
    assert data["profile"] == str(path)
    assert data["sites"] == len(profile.sites) + len(profile.weights)
    assert data["tokens"] == int(profile.samples["length"].sum())
    assert {row["module"] for row in data["rows"]} >= set(profile.weights)
    assert f"next: fp8scope analyze {path}" in ran.err
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]


def test_scan_prints_findings_on_stdout_and_words_on_stderr(scan: Fp8scope) -> None:
    ran = scan("--record", "full", "--dtype", "float32")
    assert ran.out.startswith("Where FP8 hurts")
    assert "wrote" not in ran.out
    assert "wrote" in ran.err


def test_latent_attention_and_experts_from_the_command_line(
    fp8scope: Fp8scope, tmp_path: Path
) -> None:
    from tests.cli import folders

    folder, output = folders.make(tmp_path / "model", "deepseek_v3"), tmp_path / "out.h5"
    ran = fp8scope(
        "scan", folder, "--calib", folder / "text.txt", "--seq-len", 32, "--samples", 6,
        "-o", output,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    profile = read_profile(output)
    structure = profile.structure
    assert structure.family == "deepseek"
    assert all(x.checkpoint_weight or x.checkpoint_shards for x in structure.linears)
    stacks = [f"model.layers.1.mlp.experts.{name}_proj" for name in ("gate_up", "down")]
    assert [site.module for site in profile.experts] == stacks
    assert all(record.tokens.sum() for record in profile.experts.values())
    detail = json.loads(fp8scope("analyze", output, "--layer", "layers.0.self_attn", "--json").out)
    assert [(site["role"], len(site["heads"])) for site in detail["sites"]] == [("k", 1)]


def test_dtypes_have_short_names(scan: Fp8scope, tmp_path: Path) -> None:
    for short, dtype in (("bf16", "bfloat16"), ("fp16", "float16"), ("float32", "float32")):
        assert scan("--dtype", short, "--force").code == 0
        assert read_profile(tmp_path / "out.h5").settings["dtype"] == dtype


def test_the_same_command_gives_the_same_profile(scan: Fp8scope, tmp_path: Path) -> None:
    assert scan("-o", tmp_path / "1.h5").code == scan("-o", tmp_path / "2.h5").code == 0
    scans.assert_identical(read_profile(tmp_path / "1.h5"), read_profile(tmp_path / "2.h5"))


def test_experts_by_name_in_the_files_and_all_of_them_on_request(
    fp8scope: Fp8scope, tmp_path: Path
) -> None:
    folder = folders.make(tmp_path / "mixtral", "mixtral")
    words = ("scan", folder, "--calib", folder / "text.txt", "--seq-len", 32, "--samples", 6)
    routed, every = tmp_path / "routed.h5", tmp_path / "every.h5"
    assert fp8scope(*words, "-o", routed).code == 0
    assert fp8scope(*words, "-o", every, "--all-experts").code == 0
    one, other = read_profile(routed), read_profile(every)
    shards = next(x.checkpoint_shards for x in one.structure.linears if x.experts)
    assert shards[0] == "model.layers.0.block_sparse_moe.experts.{}.w1.weight"
    assert (one.settings["all_experts"], other.settings["all_experts"]) == (False, True)
    for site, record in other.experts.items():
        assert np.array_equal(record.tokens, one.experts[site].tokens)
        elements = int(other.samples["length"].sum()) * record.channel_amax.shape[1]
        assert (record.histogram.sum(1) + record.zeros + record.below == elements).all()
    ran = fp8scope(*words, "-o", every, "--resume")
    assert ran.code == 2
    assert "all_experts differs (True there, False asked)" in ran.refusal
    ran = fp8scope("merge", routed, every, "-o", tmp_path / "both.h5")
    assert "differ in --all-experts" in ran.refusal


def test_pickled_weights_load_when_allowed(
    fp8scope: Fp8scope, scan: Fp8scope, own_model: Path, tmp_path: Path
) -> None:
    folders.pickle_weights(own_model)
    text, pickled = own_model / "text.txt", tmp_path / "pickled.h5"
    ran = fp8scope(
        "scan", own_model, "--calib", text, "--allow-pickle", "--seq-len", 32, "--samples", 6,
        "--batch-tokens", 32, "-o", pickled,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert scan().code == 0
    mine, theirs = read_profile(pickled), read_profile(tmp_path / "out.h5")
    for site, record in theirs.sites.items():
        np.testing.assert_array_equal(mine.sites[site].histogram, record.histogram)


def test_merge(fp8scope: Fp8scope, scan: Fp8scope, model: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for i, path in enumerate(paths):
        text = tmp_path / f"{i}.txt"
        text.write_text((model / "text.txt").read_text().replace("truth", f"thing {i}"))
        ran = fp8scope("scan", model, "--calib", text, "--seq-len", 32, "--samples", 4, "-o", path)
        assert ran.code == 0
    both = tmp_path / "both.h5"
    ran = fp8scope("merge", *paths, "-o", both, "--json")
    assert ran.code == 0
    assert f"wrote {both} (" in ran.err
    assert f": 8 sequences, tags 0, 1; next: fp8scope analyze {both}" in ran.err
    assert json.loads(ran.out)["sequences"] == 8
    assert read_profile(both).tags == ("0", "1")
    for words, said in (
        ((*paths, "-o", both), "exists already"),
        ((paths[0], "-o", tmp_path / "c.h5"), "only one profile"),
        ((paths[0], both, "-o", tmp_path / "c.h5"), "would count twice"),
    ):
        ran = fp8scope("merge", *words)
        assert ran.code == 2
        assert said in ran.refusal
    before = paths[0].read_bytes()
    ran = fp8scope("merge", *paths, "-o", tmp_path / "." / "a.h5", "--force")
    assert ran.code == 2
    assert "a.h5 is one of the profiles to merge" in ran.refusal
    assert paths[0].read_bytes() == before
    assert scan("--dtype", "float32").code == 0
    ran = fp8scope("merge", paths[0], tmp_path / "out.h5", "-o", tmp_path / "c.h5")
    assert ran.code == 2
    assert "weights" in ran.refusal or "dtype" in ran.refusal
    assert not (tmp_path / "c.h5").exists()


# --- real processes ----------------------------------------------------------------------------


def test_the_demo_scans(tmp_path: Path) -> None:
    words = ["scan", "demo", "--samples", "6", "--seq-len", "32", "--json"]
    ran = subprocess.run(
        [*COMMAND, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    data = json.loads(ran.stdout)
    assert list(data["tags"]) == ["code", "prose", "support", "technical"]
    assert [path.name for path in tmp_path.iterdir()] == ["profile.h5"]


def test_the_demos_model_takes_other_text(fp8scope: Fp8scope, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a b.h5"
    ran = fp8scope("scan", "demo", "--calib", model / "text.txt", "--samples", 6, "-o", path)
    assert ran.code == 0, ran.err
    assert read_profile(path).tags == ("text",)
    assert f"next: fp8scope analyze '{path}'" in ran.err


def test_text_may_come_through_a_pipe(fp8scope: Fp8scope, model: Path, tmp_path: Path) -> None:
    pipe, output = tmp_path / "pipe", tmp_path / "o.h5"
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_text, args=((model / "text.txt").read_text(),))
    writer.start()
    words = ["--calib", f"t={pipe}", "--samples", 6, "--seq-len", 32, "-o", output]
    ran = fp8scope("scan", model, *words)
    writer.join(5)
    assert ran.code == 0, ran.err
    assert read_profile(output).tags == ("t",)


def test_a_refusal_is_exit_2(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*COMMAND, "analyze", "x.h5"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("fp8scope: cannot read x.h5")
    assert ran.stderr.count("\n") == 1
