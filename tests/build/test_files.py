"""A model's own files again: names, values, tied weights, shards, and what a full disk says."""

from __future__ import annotations

import json
import resource
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from fp8scope.build.files import file_shapes, file_tensors, with_saved_names, write_shards
from fp8scope.errors import CannotWrite
from tests import models
from tests.build.precisions import all_fp8
from tests.observe.quantized_models import TRANSPOSED, gpt_oss

NAMES = (
    "llama",
    "phi3",
    "mixtral",
    "qwen3_moe",
    "deepseek_v3",
    "gemma2",
    "gpt_neox",
    "gpt2",
    "opt",
)


def _model(name: str) -> Any:
    if name == TRANSPOSED:
        return gpt_oss()
    return models.build_gemma3_multimodal() if name == "gemma3" else models.build(name)


def _assert_equal(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert sorted(got) == sorted(want)
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name


@pytest.mark.parametrize("name", [*NAMES, "gemma3", TRANSPOSED])
def test_names_and_values_are_those_that_transformers_saves(name: str, tmp_path: Path) -> None:
    model = _model(name)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    _assert_equal(dict(file_tensors(model)), saved)
    assert file_shapes(model) == {name: tuple(tensor.shape) for name, tensor in saved.items()}


def test_experts_are_apart_as_in_mixtrals_files() -> None:
    model = models.build("mixtral")
    tensors = dict(file_tensors(model))
    layer = model.get_submodule("model.layers.1.mlp.experts")
    stack = layer.get_parameter("gate_up_proj")
    experts = "model.layers.1.block_sparse_moe.experts"
    assert torch.equal(tensors[f"{experts}.3.w1.weight"], stack[3, :48])
    assert torch.equal(tensors[f"{experts}.3.w3.weight"], stack[3, 48:])
    assert sum(name.startswith(experts) for name in tensors) == 12


@pytest.mark.parametrize(("name", "prefix"), [("gpt2", "transformer."), ("opt", "model.")])
def test_files_without_the_prefix(name: str, prefix: str, tmp_path: Path) -> None:
    """Such as OPT's own: transformers saves them with it, and the plan is brought to that."""
    models.build(name).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    saved = load_file(path)
    save_file({n.removeprefix(prefix): t for n, t in saved.items()}, path, {"format": "pt"})
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    _assert_equal(dict(file_tensors(loaded)), saved)
    plan = all_fp8(name)
    bare = [
        each.model_copy(update={"checkpoint_weight": (each.checkpoint_weight or "")[len(prefix) :]})
        for each in plan.modules
        if each.tied_to is None
    ]
    assert all(each.checkpoint_weight not in saved for each in bare)
    named = with_saved_names(plan.model_copy(update={"modules": tuple(bare)}), loaded)
    assert named.modules == plan.modules[: len(bare)]
    assert with_saved_names(named, loaded) == named


def test_tied_weights_are_there_once() -> None:
    model = models.build("llama", tie_word_embeddings=True)
    names = [name for name, _ in file_tensors(model)]
    assert names.count("model.embed_tokens.weight") == 1
    assert "lm_head.weight" not in names
    assert "lm_head.weight" in dict(file_tensors(models.build("llama")))


def test_what_lies_beside_is_renamed_as_the_models_own() -> None:
    model = models.build("mixtral")
    scale = torch.ones(1)
    beside = {"model.layers.0.self_attn.k_scale": scale, "model.layers.1.mlp.gate.extra": scale}
    added = set(dict(file_tensors(model, beside))) - set(dict(file_tensors(model)))
    renamed = "model.layers.1.block_sparse_moe.gate.extra"
    assert added == {"model.layers.0.self_attn.k_scale", renamed}
    assert file_shapes(model, beside)[renamed] == (1,)


def test_no_second_copy_of_a_model_is_held() -> None:
    """Most are views, and of what must be copied (w1 and w3) a block is alive at a time."""
    model = models.build("mixtral", num_hidden_layers=4)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    copies: list[weakref.ref[Tensor]] = []
    most = total = 0
    for name, tensor in file_tensors(model):
        if tensor.untyped_storage().data_ptr() not in own:
            assert name.endswith(("w1.weight", "w3.weight")), name
            copies.append(weakref.ref(tensor))
            total += 1
        most = max(most, sum(copy() is not None for copy in copies))
    assert total == 32
    assert most <= 9  # 8 of a block, and the one that the loop still holds


def test_a_model_that_is_not_of_transformers() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
    assert not isinstance(model, PreTrainedModel)
    assert list(file_shapes(model)) == ["0.weight", "0.bias", "1.weight"]


def _tensors(count: int = 5, rows: int = 10) -> dict[str, Tensor]:
    return {f"layer.{n}.weight": torch.randn(rows, 10) for n in range(count)}


def test_one_shard_is_a_file_without_an_index(tmp_path: Path) -> None:
    tensors = _tensors()
    write_shards(tmp_path, iter(tensors.items()))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    _assert_equal(load_file(tmp_path / "model.safetensors"), tensors)
    assert b'"__metadata__":{"format":"pt"}' in (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("limit", "per_shard"), [(800, [2, 2, 1]), (1199, [2, 2, 1]), (1, [1] * 5)]
)
def test_shards_and_their_index(limit: int, per_shard: list[int], tmp_path: Path) -> None:
    """A tensor has 400 bytes; one that is larger than the limit has a shard of its own."""
    tensors = _tensors()
    write_shards(tmp_path, iter(tensors.items()), limit)
    count = len(per_shard)
    files = [f"model-{n + 1:05d}-of-{count:05d}.safetensors" for n in range(count)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *files,
        "model.safetensors.index.json",
    ]
    assert index["metadata"] == {"total_size": 2000}
    shards = [load_file(tmp_path / file) for file in files]
    assert [len(shard) for shard in shards] == per_shard
    _assert_equal({n: t for shard in shards for n, t in shard.items()}, tensors)
    by_file = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    assert index["weight_map"] == by_file


def test_one_shard_is_in_memory_at_a_time(tmp_path: Path) -> None:
    made: list[weakref.ref[Tensor]] = []
    most = 0

    def tensors() -> Iterator[tuple[str, Tensor]]:
        nonlocal most
        for number in range(20):
            tensor = torch.zeros(100)
            made.append(weakref.ref(tensor))
            most = max(most, sum(one() is not None for one in made))
            yield f"t{number}", tensor

    write_shards(tmp_path, tensors(), 1200)
    assert most <= 5, "a shard has 3; one more is asked for, and one is in the caller's hands"


def test_others_may_read_the_files(tmp_path: Path) -> None:
    """As any file that is written here: safetensors by itself leaves 0600."""
    write_shards(tmp_path, iter(_tensors().items()))
    (tmp_path / "other").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_name_that_comes_twice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"two tensors are called a\.weight"):
        write_shards(tmp_path, iter([("a.weight", torch.ones(1)), ("a.weight", torch.ones(1))]))


@contextmanager
def _files_no_longer_than(size: int) -> Iterator[None]:
    """The kernel refuses to write more, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    """The first shard of 0.4 MB fits, the second of 2 MB does not."""
    tensors = {"a": torch.zeros(100_000), "b": torch.zeros(500_000)}
    with _files_no_longer_than(1_000_000), pytest.raises(CannotWrite) as refusal:
        write_shards(tmp_path, iter(tensors.items()), 1_000_000)
    assert str(refusal.value) == (
        f"cannot write 2.0 MB into {tmp_path}, with 0.4 MB written before: File too large"
        " → make room there, or choose another place"
    )
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"], "nothing that looks whole"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match=r"nowhere.*: No such file or directory"):
        write_shards(tmp_path / "nowhere", iter(_tensors().items()))
