"""build on the command line: what appears, what is refused, and what never appears."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from fp8scope.artefacts.plan_file import write_plan
from fp8scope.build import memory, modelopt, source
from tests.build.planned import MIX, Scanned, mixed_plan, scanned
from tests.cli import folders
from tests.cli.conftest import Fp8scope, InterruptAt

COMMAND = [sys.executable, "-W", "ignore", "-m", "fp8scope"]


@pytest.fixture(scope="module")
def what() -> Scanned:
    return scanned("llama", "bfloat16")


@pytest.fixture
def plan(what: Scanned, tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    write_plan(*mixed_plan(what, MIX), path)
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "fp8"


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"plan.json", "plan.npz"}


def test_a_checkpoint_is_whole(fp8scope: Fp8scope, plan: Path, output: Path, what: Scanned) -> None:
    ran = fp8scope("build", plan, "-o", output)
    assert ran.code == 0, ran.err
    assert "vllm 0.33.0: all layers will run as planned." in ran.out
    assert "Smoothing is folded into the weights (2 folds)." in ran.out
    assert "this takes about 0.8 GB of memory, and 0.1 MB on the disk" in ran.err
    assert left(output) == {
        "config.json", "hf_quant_config.json", "model.safetensors", "generation_config.json",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    assert (output / "plan.json").read_bytes() == plan.read_bytes()
    assert (output / "plan.npz").read_bytes() == plan.with_suffix(".npz").read_bytes()
    ids = [
        AutoTokenizer.from_pretrained(f)("It is a truth")["input_ids"]
        for f in (output, what.folder)
    ]
    assert ids[0] == ids[1]


def test_both_metadata_say_the_same(fp8scope: Fp8scope, plan: Path, output: Path) -> None:
    assert fp8scope("build", plan, "-o", output).code == 0
    flat = json.loads((output / "config.json").read_text())["quantization_config"]
    nested = json.loads((output / "hf_quant_config.json").read_text())["quantization"]
    assert flat["ignore"] == nested["exclude_modules"] != []
    assert flat["quantized_layers"] == nested["quantized_layers"] != {}
    assert flat["quant_algo"] == nested["quant_algo"] == "MIXED_PRECISION"
    assert nested["kv_cache_quant_algo"] == "FP8"
    assert flat["kv_cache_scheme"] == {"dynamic": False, "num_bits": 8, "type": "float"}


def test_config_is_the_models_own(
    fp8scope: Fp8scope, plan: Path, output: Path, what: Scanned
) -> None:
    assert fp8scope("build", plan, "-o", output).code == 0
    built, own = (json.loads((f / "config.json").read_text()) for f in (output, what.folder))
    del built["quantization_config"]
    assert built == own


def test_json(fp8scope: Fp8scope, plan: Path, output: Path) -> None:
    ran = fp8scope("build", plan, "-o", output, "--format", "compressed-tensors", "--json")
    found = json.loads(ran.out)
    assert (found["checkpoint"], found["format"], found["folds"]) == (
        str(output), "compressed-tensors", 2,
    )  # fmt: skip
    assert found["linears"]["bf16"] == 4  # a block's MLP, lm_head
    assert {r["name"]: r["fault"] for r in found["readers"]}["vllm"] == ""
    assert found["bytes"] < found["bytes_before"]


def test_nothing_is_overwritten_unasked(fp8scope: Fp8scope, plan: Path, output: Path) -> None:
    assert fp8scope("build", plan, "-o", output).code == 0
    again = fp8scope("build", plan, "-o", output)
    assert again.code == 2
    assert f"{output} exists already → give another -o, or --force" in again.refusal
    assert "loading torch" not in again.err
    assert fp8scope("build", plan, "-o", output, "--force").code == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there(fp8scope: Fp8scope, plan: Path, output: Path) -> None:
    ran = fp8scope("build", plan, "-o", output, "--device", "cuda")
    assert ran.code == 3
    assert "cannot use device cuda" in ran.refusal


def test_a_fine_tune_is_not_built(
    fp8scope: Fp8scope, plan: Path, output: Path, what: Scanned, tmp_path: Path
) -> None:
    other = folders.copy(what.folder, tmp_path / "tuned")
    folders.edit_weights(other, "model.layers.0.mlp.down_proj.weight", lambda w: w * 1.01)
    ran = fp8scope("build", plan, "-o", output, "--model", other)
    assert ran.code == 2
    assert "another fine-tune: the weights differ" in ran.refusal
    assert left(tmp_path) == {"tuned"}


def test_a_model_that_has_moved_is_asked_for(
    fp8scope: Fp8scope, plan: Path, output: Path, what: Scanned, tmp_path: Path
) -> None:
    data = json.loads(plan.read_text())
    data["model"]["name"] = str(tmp_path / "gone")
    plan.write_text(json.dumps(data))
    ran = fp8scope("build", plan, "-o", output)
    assert ran.code == 2
    assert "--model" in ran.refusal
    assert fp8scope("build", plan, "-o", output, "--model", what.folder).code == 0


def test_factors_of_another_plan_are_refused(fp8scope: Fp8scope, plan: Path, output: Path) -> None:
    plan.with_suffix(".npz").write_bytes(b"no factors")
    ran = fp8scope("build", plan, "-o", output)
    assert ran.code == 2
    assert "these are not the factors of" in ran.refusal


@pytest.mark.parametrize("form", ["modelopt", "compressed-tensors"])
def test_a_plan_without_fp8_has_nothing_to_build(
    form: str, fp8scope: Fp8scope, what: Scanned, output: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bf16.json"
    write_plan(*mixed_plan(what, ("bf16",), cache=False), path)
    ran = fp8scope("build", path, "-o", output, "--format", form)
    assert ran.code == 2
    assert "the plan runs nothing in FP8" in ran.refusal
    assert not output.exists()


def test_no_room_is_said_before_anything_is_loaded(
    fp8scope: Fp8scope, plan: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000, "total": 0, "used": 0})
    )
    monkeypatch.setattr(source, "load", None)
    ran = fp8scope("build", plan, "-o", output)
    assert ran.code == 2
    assert "the build takes 0.1 MB in" in ran.refusal
    assert "0.0 MB are free" in ran.refusal


def test_no_memory_is_said_before_anything_is_loaded(
    fp8scope: Fp8scope, plan: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda _: 10**8)
    monkeypatch.setattr(source, "load", None)
    ran = fp8scope("build", plan, "-o", output)
    assert ran.code == 3
    assert "the build needs about 0.8 GB of memory, 0.1 GB are free" in ran.refusal


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """The kernel refuses to write more, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("form", ["modelopt", "compressed-tensors"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    form: str, fp8scope: Fp8scope, plan: Path, output: Path, tmp_path: Path
) -> None:
    with files_no_longer_than(40_000):
        ran = fp8scope("build", plan, "-o", output, "--format", form)
    assert ran.code == 2, ran.err
    assert "cannot write" in ran.refusal
    assert "File too large" in ran.refusal
    assert left(tmp_path) == set()


@pytest.mark.parametrize("where", ["quantize", "export"])
def test_ctrl_c_leaves_nothing(
    where: str, fp8scope: Fp8scope, interrupt_at: InterruptAt, plan: Path, output: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    with interrupt_at(modelopt, where):
        ran = fp8scope("build", plan, "-o", output)
    assert ran.code == 130
    assert ran.refusal == "fp8scope: interrupted, nothing is left of it"
    assert left(tmp_path) == set()


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_that_looks_whole(plan: Path, output: Path) -> None:
    words = [*COMMAND, "build", str(plan), "-o", str(output)]
    building = output.with_name(".fp8.building")
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not building.exists() and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert not output.exists()
    assert building.is_dir()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not building.exists()


def test_a_fault_in_what_was_built_keeps_it_from_appearing(
    fp8scope: Fp8scope, plan: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if ModelOpt had written a scale that is no number."""
    honest = modelopt.export

    def broken(model: Any, folder: Path, most: int) -> None:
        honest(model, folder, most)
        name = "model.layers.0.self_attn.q_proj.input_scale"
        folders.edit_weights(folder, name, lambda scale: scale * float("nan"))

    monkeypatch.setattr(modelopt, "export", broken)
    ran = fp8scope("build", plan, "-o", output)
    assert ran.code == 1
    assert "what was built has a fault, so it is not kept" in ran.refusal
    assert "q_proj.input_scale" in ran.refusal
    assert left(tmp_path) == set()


def test_another_model_is_refused_before_it_is_loaded(
    fp8scope: Fp8scope, plan: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "load", None)
    ran = fp8scope("build", plan, "-o", output, "--model", "demo")
    assert ran.code == 2
    assert "does not belong to the plan (another model" in ran.refusal
