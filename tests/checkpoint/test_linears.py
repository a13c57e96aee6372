"""The linears of a checkpoint by headers alone, against what transformers makes of the files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.inventory import Inventory, read_inventory
from fp8scope.checkpoint.linears import linears
from fp8scope.core.modules import Module, Treatment
from fp8scope.core.structure import Structure
from fp8scope.runtime.structure import discover
from tests import models

# what transformers loads as one module, by the file names that it is known under there
RENAMED_AT_LOAD = {"gpt2", "gpt_neox", "gpt_neox_sequential", "opt", "opt_post_norm"}


def _saved(model: PreTrainedModel, folder: Path) -> tuple[tuple[Module, ...], Structure]:
    model.save_pretrained(folder)
    inventory = read_inventory(folder)
    config = json.loads((folder / "config.json").read_text())
    return linears(inventory, config), discover(model, inventory.shapes())


def _file_names(structure: Structure) -> dict[str, str]:
    """File name → transformers' name, of every linear."""
    found = {}
    for linear in structure.linears:
        if linear.checkpoint_shards:
            for expert in range(linear.experts):
                for shard in linear.checkpoint_shards:
                    found[shard.format(expert).removesuffix(".weight")] = linear.name
        elif linear.checkpoint_weight and linear.tied_to is None:
            found[linear.checkpoint_weight.removesuffix(".weight")] = linear.name
        else:
            found["lm_head"] = linear.name
    return found


def _parts(pairs: Iterable[tuple[str, str]]) -> set[frozenset[str]]:
    groups = defaultdict(set)
    for name, group in pairs:
        groups[group].add(name)
    return {frozenset(names) for names in groups.values()}


@pytest.mark.parametrize("name", models.KNOWN)
def test_every_linear_of_every_family(name: str, tmp_path: Path) -> None:
    found, structure = _saved(models.build(name), tmp_path)
    want = _file_names(structure)
    routers = {module.name for module in found if module.kind == "router"}
    assert {module.name for module in found} - routers == set(want) - routers
    if name not in RENAMED_AT_LOAD:
        runtime = {module.name: module.runtime for module in found}
        assert {each: runtime[each] for each in want} == want


@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral", "qwen3_moe", "gemma2", "phi3"])
def test_fused_groups_are_those_of_the_family(name: str, tmp_path: Path) -> None:
    found, structure = _saved(models.build(name), tmp_path)
    want = _file_names(structure)
    group_of = {member: group.name for group in structure.groups for member in group.members}
    known = {module.name: module for module in found}
    assert _parts((each, known[each].group) for each in want) == _parts(
        (each, group_of[runtime]) for each, runtime in want.items()
    )


def test_a_vision_language_model_has_both_towers(tmp_path: Path) -> None:
    found, structure = _saved(models.build_gemma3_multimodal(), tmp_path)
    names = {module.name for module in found}
    assert set(_file_names(structure)) <= names
    assert sum("vision" in name for name in names) >= 3 * 6
    assert sum(name.endswith("gate_proj") for name in names) == models.LAYERS


def test_layers_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    found, _ = _saved(models.build("llama", num_hidden_layers=11), tmp_path)
    layers = [int(module.name.split(".")[2]) for module in found if "layers" in module.name]
    assert layers == sorted(layers)
    assert layers[-1] == 10
    assert found[-1].name == "lm_head"


def test_a_tied_head_is_listed(tmp_path: Path) -> None:
    found, _ = _saved(models.build("llama", tie_word_embeddings=True), tmp_path)
    assert [m.name for m in found if m.kind == "lm_head"] == ["lm_head"]
    head = found[-1]
    assert (head.out_features, head.in_features) == (models.VOCAB, models.HIDDEN)


W = "model.layers.0.mlp.down_proj"


@pytest.mark.parametrize(
    ("dtype", "scales", "stored"),
    [
        ("BF16", {}, "bf16"),
        ("F32", {}, "bf16"),
        ("F8_E4M3", {"weight_scale": (), "input_scale": ()}, "fp8_tensor"),
        ("F8_E4M3", {"weight_scale": (1,), "input_scale": (1,)}, "fp8_tensor"),
        ("F8_E4M3", {"weight_scale": (1, 1)}, "fp8_tensor_dynamic"),
        ("F8_E4M3", {"weight_scale": (256, 1)}, "fp8_token"),
        ("F8_E4M3", {"weight_scale": (256,)}, "fp8_token"),
        ("F8_E4M3", {"weight_scale_inv": (2, 3)}, "fp8_block"),
        ("F8_E4M3", {"weight_scale": (2, 1, 3, 1)}, "fp8_block"),
        ("F8_E4M3", {"weight_scale": (2, 4)}, "other"),
        ("F8_E4M3", {}, "other"),
        ("F8_E5M2", {"weight_scale": ()}, "other"),
        ("I8", {"weight_scale": (256, 1)}, "other"),
    ],
)
def test_how_a_linear_is_stored(
    dtype: str, scales: dict[str, tuple[int, ...]], stored: Treatment
) -> None:
    rows = [TensorEntry(f"{W}.weight", "f", dtype, (256, 300), 0, 0)]
    rows += [TensorEntry(f"{W}.{name}", "f", "F32", shape, 0, 0) for name, shape in scales.items()]
    found = linears(Inventory(Path(), tuple(rows)), {})
    assert [(module.name, module.wanted) for module in found] == [(W, stored)]
