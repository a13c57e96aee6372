"""Faults of the files themselves: each is planted, named, and hides nothing else."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fp8scope.checkpoint.doctor.examine import examine
from fp8scope.checkpoint.listing import Listing, list_folder
from fp8scope.errors import BadInput
from tests.checkpoint.doctor import checkpoints
from tests.checkpoint.doctor.checkpoints import INDEX
from tests.checkpoint.doctor.finding import shown, the_error, the_fault

FIRST, SECOND = (f"model-{at:05}-of-00002.safetensors" for at in (1, 2))
SINGLE = "model.safetensors"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return checkpoints.healthy().write(tmp_path / "c", shards=2)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return checkpoints.healthy().write(tmp_path / "c")


def reindex(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def rewrite_header(path: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_a_truncated_shard(sharded: Path) -> None:
    path = sharded / FIRST
    path.write_bytes(path.read_bytes()[:-5000])
    fault = the_error(sharded, "file-truncated", [FIRST])
    assert "truncated" in fault.what
    assert len(fault.where) > 1  # the tensors that are cut off


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS", "git lfs pull"),
        ("<!DOCTYPE html>\n<title>404</title>", "a web page", "hub's client"),
        ("PK\3\4" + "0" * 40, "torch.save", "convert"),
        ("GGUF" + "x" * 40, "GGUF", "safetensors of the model"),
        ("\xff" * 40, "not a safetensors file", "fetch the file again"),
    ],
)
def test_what_is_no_safetensors_file(single: Path, text: str, what: str, remedy: str) -> None:
    (single / SINGLE).write_text(text)
    fault = the_error(single, "header-unreadable", [SINGLE])
    assert what in fault.what
    assert remedy in fault.remedy


def test_a_shard_whose_header_is_garbage(sharded: Path) -> None:
    (sharded / SECOND).write_bytes((5).to_bytes(8, "little") + b"{nojson")
    the_error(sharded, "header-unreadable", [SECOND])
    assert examine(sharded).linears  # the other is examined all the same


def test_offsets_that_cannot_hold_a_tensor(single: Path) -> None:
    name = f"{checkpoints.Q0}.weight_scale"
    rewrite_header(single / SINGLE, lambda header: header[name].update(shape=[3]))
    the_error(single, "header-offsets", [SINGLE, name])


def test_offsets_that_overlap(tmp_path: Path) -> None:
    entries = {
        name: {"dtype": "BF16", "shape": [2], "data_offsets": [start, start + 4]}
        for name, start in (("a.weight", 0), ("b.weight", 2))
    }
    text = json.dumps(entries).encode()
    (tmp_path / SINGLE).write_bytes(len(text).to_bytes(8, "little") + text + b"\1" * 6)
    said = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": said}))
    assert "overlap before b.weight" in the_error(tmp_path, "header-offsets", [SINGLE]).what


def test_bytes_behind_the_last_tensor(single: Path) -> None:
    (single / SINGLE).write_bytes((single / SINGLE).read_bytes() + b"xx")
    assert "2 bytes longer" in the_error(single, "file-trailing", [SINGLE]).what


def test_a_missing_shard(sharded: Path) -> None:
    (sharded / SECOND).unlink()
    fault = the_error(sharded, "shard-missing", [SECOND])
    assert "finish the download" in fault.remedy


def test_all_shards_missing(sharded: Path) -> None:
    (sharded / FIRST).unlink()
    (sharded / SECOND).unlink()
    the_error(sharded, "shard-missing", [FIRST, SECOND])


def test_no_weights(single: Path) -> None:
    (single / SINGLE).unlink()
    the_error(single, "weights-missing")


def test_an_index_that_names_what_its_shard_lacks(sharded: Path) -> None:
    reindex(sharded, lambda weight_map: weight_map.update({"model.extra.weight": FIRST}))
    the_error(sharded, "index-not-in-shard", ["model.extra.weight"])


def test_an_index_that_forgets_a_tensor(sharded: Path) -> None:
    reindex(sharded, lambda weight_map: weight_map.pop("model.norm.weight"))
    the_error(sharded, "index-incomplete", ["model.norm.weight"])


def test_a_broken_index(sharded: Path) -> None:
    (sharded / INDEX).write_text("{")
    the_error(sharded, "index-unreadable", [INDEX])
    assert examine(sharded).linears["fp8_tensor"] == 13  # from the shards that are there


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    tensors = load_file(sharded / FIRST)
    name = next(iter(load_file(sharded / SECOND)))
    tensors[name] = load_file(sharded / SECOND)[name]
    save_file(tensors, sharded / FIRST)
    the_error(sharded, "tensor-duplicate", [name, FIRST, SECOND])


def test_a_single_file_beside_an_index_of_others(sharded: Path) -> None:
    tensors = load_file(sharded / FIRST) | load_file(sharded / SECOND)
    tensors["model.norm.bias"] = torch.zeros(64)
    save_file(tensors, sharded / SINGLE)
    the_error(sharded, "weights-twice", ["model.norm.bias"])


@pytest.mark.parametrize("is_there", [True, False])
def test_a_single_file_beside_an_index_of_the_same_tensors(sharded: Path, is_there: bool) -> None:
    """Their values may differ, and engines load one or the other."""
    save_file(load_file(sharded / FIRST) | load_file(sharded / SECOND), sharded / SINGLE)
    if not is_there:
        (sharded / SECOND).unlink()
    fault = the_error(sharded, "weights-twice", [INDEX, FIRST, SECOND])
    assert "vLLM what the index names" in fault.what
    assert ("not all are there" in fault.what) != is_there


def test_an_index_of_the_single_file(single: Path) -> None:
    names = load_file(single / SINGLE)
    (single / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, SINGLE)}))
    assert examine(single).faults == ()


def test_pickles_alone(single: Path) -> None:
    (single / SINGLE).rename(single / "pytorch_model.bin")
    fault = the_error(single, "weights-missing")
    assert "only pickles" in fault.what
    assert "--" not in fault.remedy  # doctor has no option that reads them


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "consolidated.safetensors"])
def test_weights_of_other_loaders_beside_a_single_file(single: Path, name: str) -> None:
    save_file({"old.weight": torch.ones(2)}, single / name)
    assert the_fault(single, "weights-stray", [name]).severity == "warning"


def test_weights_of_other_loaders_beside_an_index(sharded: Path) -> None:
    save_file({"old.weight": torch.ones(2)}, sharded / "consolidated.safetensors")
    assert examine(sharded).faults == ()


def test_a_stray_shard(single: Path) -> None:
    save_file({"old.weight": torch.ones(2)}, single / "model-00001-of-00009.safetensors")
    fault = the_fault(single, "weights-stray", ["model-00001-of-00009.safetensors"])
    assert fault.severity == "warning"


def test_no_tokenizer(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.files.clear()
    fault = the_fault(checkpoint.write(tmp_path / "c"), "tokenizer-missing")
    assert fault.severity == "warning"


def test_no_config(single: Path) -> None:
    (single / "config.json").unlink()
    the_error(single, "config-missing", ["config.json"])


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\x00"])
def test_a_config_that_is_no_json_object(single: Path, text: str) -> None:
    (single / "config.json").write_text(text)
    the_error(single, "config-unreadable", ["config.json"])


def test_where_a_config_is_no_json(single: Path) -> None:
    (single / "config.json").write_text('{\n  "a": 1,\n}')
    fault = the_error(single, "config-unreadable")
    assert "config.json is not JSON (line 3, column 1: " in fault.what or (
        "config.json is not JSON (line 2, column 9: " in fault.what  # since Python 3.13
    )


def test_metadata_that_is_no_json(single: Path) -> None:
    (single / "hf_quant_config.json").write_text("quant_algo: FP8")
    the_error(single, "metadata-unreadable", ["hf_quant_config.json"])


@pytest.mark.parametrize("much", [100, 0])
def test_a_file_that_changes_while_it_is_read(
    single: Path, monkeypatch: pytest.MonkeyPatch, much: int
) -> None:
    def and_change(folder: Path) -> Listing:
        listing = list_folder(folder)
        path = folder / SINGLE
        os.utime(path, ns=(1, 1))
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - much)
        return listing

    monkeypatch.setattr("fp8scope.checkpoint.doctor.examine.list_folder", and_change)
    fault = the_error(single, "files-changed", [SINGLE])
    assert "when nobody writes there" in fault.remedy


def test_a_disk_that_fails(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fp8scope.checkpoint.doctor.values._Reader._fill", fail)
    assert len(the_error(single, "tensor-unread").where) > 40


def test_a_file_that_may_not_be_read(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _forbid(monkeypatch, SECOND)
    fault = the_error(sharded, "file-unreadable", [SECOND])
    assert "Permission denied" in fault.what


def test_a_config_that_may_not_be_read(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _forbid(monkeypatch, "config.json")
    assert "Permission denied" in the_error(single, "config-unreadable", ["config.json"]).what


def test_a_folder_that_may_not_be_read(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> list[Path]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(BadInput, match=r"cannot be read \(Permission denied\)"):
        examine(single)


def _forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whoever runs the tests may read everything, perhaps."""
    whole = Path.open

    def guarded(path: Path, *arguments: Any, **settings: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return whole(path, *arguments, **settings)

    monkeypatch.setattr(Path, "open", guarded)


def test_the_layout_of_the_hubs_cache(sharded: Path) -> None:
    """snapshots/REVISION/… are links to blobs/HASH."""
    blobs = sharded.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(sharded.iterdir())):
        path.rename(blobs / f"{number:064x}")
        path.symlink_to(Path("..") / "blobs" / f"{number:064x}")
    assert examine(sharded).faults == ()
    (sharded / SECOND).resolve().unlink()
    the_error(sharded, "shard-missing", [SECOND])


def test_a_single_file_that_links_to_nothing(single: Path) -> None:
    (single / SINGLE).unlink()
    (single / SINGLE).symlink_to("../blobs/absent")
    assert "No such file" in the_error(single, "file-unreadable", [SINGLE]).what


def test_several_faults_are_named_each(sharded: Path) -> None:
    """Nothing stops at the first."""
    (sharded / SECOND).unlink()
    (sharded / "config.json").write_text("{")
    tensors = load_file(sharded / FIRST)
    tensors[f"{checkpoints.DOWN0}.input_scale"] = torch.tensor(float("nan"))
    save_file(tensors, sharded / FIRST)
    found = examine(sharded)
    codes = {fault.code for fault in found.errors}
    assert {"shard-missing", "config-unreadable", "scale-nan"} <= codes, shown(found)
