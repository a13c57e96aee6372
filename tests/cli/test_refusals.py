"""Every bad input: one line that says what, where and what to do; exit 2; nothing written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import torch

from tests.cli import folders
from tests.cli.conftest import Fp8scope, Ran

WEIGHT = "model.layers.1.mlp.up_proj.weight"


def _refused(ran: Ran, output: Path, *words: str, code: int = 2) -> None:
    said = ran.refusal
    assert ran.code == code, said
    assert ran.out == ""
    for word in words:
        assert word in said
    assert " → " in said
    assert not output.exists()
    assert not [path for path in output.parent.iterdir() if output.name in path.name]


def _nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor[2, 3] = torch.nan
    return tensor


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


BREAK: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no config": (lambda f: (f / "config.json").unlink(), ("config.json",)),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), ("config.json",)),
    "unknown model type": (
        lambda f: folders.edit_config(f, model_type="perhaps"), ("perhaps", "cannot load")
    ),
    "no tokenizer": (_no_tokenizer, ("no tokenizer", "tokenizer.json")),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ("no weights",)),
    "pickled weights": (folders.pickle_weights, ("pytorch_model.bin", "--allow-pickle")),
    "remote code": (
        lambda f: folders.edit_config(f, model_type="own", auto_map={"AutoConfig": "m.C"}),
        ("auto_map", "--trust-remote-code"),
    ),
    "quantized": (
        lambda f: folders.edit_config(f, quantization_config={"quant_method": "fp8"}),
        ("already quantized (fp8)", "BF16"),
    ),
    "quantized by ModelOpt": (
        lambda f: (f / "hf_quant_config.json").write_text("{}"), ("already quantized",)
    ),
    "a tensor is missing": (
        lambda f: folders.edit_weights(f, WEIGHT, lambda _: None), (WEIGHT, "random")
    ),
    "a tensor of another shape": (
        lambda f: folders.edit_weights(f, WEIGHT, lambda t: t[:-1].contiguous()), (WEIGHT,)
    ),
    "truncated": (_truncate, ("truncated", "model.safetensors")),
    "NaN weight": (lambda f: folders.edit_weights(f, WEIGHT, _nan), (WEIGHT, "NaN")),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAK)
def test_a_broken_model(name: str, fp8scope: Fp8scope, own_model: Path, tmp_path: Path) -> None:
    breaks, words = BREAK[name]
    breaks(own_model)
    output = tmp_path / "out.h5"
    ran = fp8scope(
        "scan", own_model, "--calib", own_model / "text.txt", "--seq-len", 32, "-o", output
    )
    _refused(ran, output, "model", *words)


def test_an_overflow_in_the_forward(fp8scope: Fp8scope, own_model: Path, tmp_path: Path) -> None:
    folders.edit_weights(own_model, WEIGHT, lambda t: t.fill_(3e38))
    output = tmp_path / "out.h5"
    ran = fp8scope(
        "scan", own_model, "--calib", f"mine={own_model / 'text.txt'}", "--seq-len", 32,
        "-o", output,
    )  # fmt: skip
    _refused(ran, output, "model.layers.1.", "sample 0", "tag mine", "--dtype")


@pytest.mark.parametrize("reference", ["./nowhere", "/nowhere/at/all", "nowhere", "a/b/c"])
def test_no_such_folder(reference: str, fp8scope: Fp8scope, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    ran = fp8scope("scan", reference, "--calib", model / "text.txt", "-o", output)
    _refused(ran, output, f"no folder {reference}")


def test_a_file_is_not_a_model(fp8scope: Fp8scope, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    path = model / "config.json"
    ran = fp8scope("scan", path, "--calib", model / "text.txt", "-o", output)
    _refused(ran, output, "is a file", str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "text.txt"), ("  \n\n", "text.txt"), ("Hello there", "tokens of text")],
    ids=["empty", "blank", "tiny"],
)
def test_too_little_text(
    content: str, words: str, fp8scope: Fp8scope, model: Path, tmp_path: Path
) -> None:
    output, text = tmp_path / "out.h5", tmp_path / "text.txt"
    text.write_text(content)
    ran = fp8scope("scan", model, "--calib", text, "-o", output)
    said = ran.refusal
    assert ran.code == 2
    assert words in said or "tag text" in said
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("no text", "--calib")),
        (("--calib", "missing.txt"), ("missing.txt",)),
        (("--calib", "TEXT", "--samples", 0), ("--samples",)),
        (("--calib", "TEXT", "--batch-tokens", 0), ("--batch-tokens",)),
        (("--calib", "TEXT", "--keep-every", -1), ("--keep-every",)),
        (("--calib", "TEXT", "--seq-len", 1), ("--seq-len",)),
        (("--calib", "TEXT", "--seed", -1), ("--seed",)),
        (("--calib", "TEXT", "--dtype", "int4"), ("int4", "bfloat16")),
        (("--calib", "TEXT", "--record", "all"), ("standard", "full")),
        (("--calib", "TEXT", "--dtpye", "x"), ("--dtpye", "--help")),
        (("--calib", "TEXT", "--samples", "many"), ("many", "--samples")),
    ],
    ids=str,
)
def test_a_bad_option(
    options: tuple[object, ...],
    words: tuple[str, ...],
    fp8scope: Fp8scope,
    model: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out.h5"
    given = [model / "text.txt" if option == "TEXT" else option for option in options]
    _refused(fp8scope("scan", model, *given, "-o", output), output, *words)


@pytest.mark.parametrize("words", [("scna",), ("scan",), ("merge", "-o", "x.h5"), ("--colour",)])
def test_a_bad_command(words: tuple[str, ...], fp8scope: Fp8scope) -> None:
    ran = fp8scope(*words)
    assert ran.code == 2
    assert "--help" in ran.refusal


def test_a_device_that_is_not_there(scan: Fp8scope, tmp_path: Path) -> None:
    ran = scan("--device", "cuda:77")
    _refused(ran, tmp_path / "out.h5", "cuda:77", "can use: cpu", code=3)
    _refused(scan("--device", "gpu"), tmp_path / "out.h5", "no device gpu", "can use: cpu", code=2)


# --- outputs -----------------------------------------------------------------------------------


def test_the_output_exists(scan: Fp8scope, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    output.write_text("mine")
    ran = scan()
    assert ran.code == 2
    assert "exists already" in ran.refusal
    assert "--force" in ran.refusal
    assert output.read_text() == "mine"
    assert scan("--force").code == 0
    assert output.stat().st_size > 1000


def test_the_outputs_folder_is_missing(scan: Fp8scope, tmp_path: Path) -> None:
    output = tmp_path / "not" / "there.h5"
    ran = scan("-o", output)
    assert ran.code == 2
    assert f"no folder {output.parent}" in ran.refusal


def test_the_output_is_a_folder(scan: Fp8scope, tmp_path: Path) -> None:
    ran = scan("-o", tmp_path)
    assert ran.code == 2
    assert f"{tmp_path} is a folder" in ran.refusal


def test_the_disk_is_full(scan: Fp8scope, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", _no_space)
        ran = scan()
    _refused(ran, tmp_path / "out.h5", "cannot write", "No space left")


def _no_space(_: int) -> None:
    raise OSError(28, "No space left on device")


# --- profiles ----------------------------------------------------------------------------------


def _analyze_refused(fp8scope: Fp8scope, path: Path, *words: str) -> None:
    ran = fp8scope("analyze", path)
    assert ran.code == 2
    assert ran.out == ""
    for word in (str(path), *words):
        assert word in ran.refusal


def test_analyze_refuses_what_is_not_a_profile(fp8scope: Fp8scope, tmp_path: Path) -> None:
    path = tmp_path / "foreign.h5"
    _analyze_refused(fp8scope, path, "No such file")
    path.write_text("hello")
    _analyze_refused(fp8scope, path, "not an fp8scope profile")
    path.unlink()
    with h5py.File(path, "w") as file:
        file["x"] = 1
    _analyze_refused(fp8scope, path, "HDF5 file but not an fp8scope profile")
    _analyze_refused(fp8scope, tmp_path, "directory")


def test_analyze_refuses_other_versions_and_damage(
    fp8scope: Fp8scope, scan: Fp8scope, tmp_path: Path
) -> None:
    path = tmp_path / "out.h5"
    assert scan().code == 0
    whole = path.read_bytes()
    for size in (20, 2000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        ran = fp8scope("analyze", path)
        assert ran.code == 2, size
        assert re.search("truncated or corrupt|not an fp8scope profile", ran.refusal)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 99
    _analyze_refused(fp8scope, path, "version 99", "reads 1")
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 1
        file.attrs["complete"] = False
    _analyze_refused(fp8scope, path, "unfinished", "--resume")
