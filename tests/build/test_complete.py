"""All of the model is in what was built, and what is not in the model is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

import fp8scope
from fp8scope.artefacts.plan_file import write_plan
from fp8scope.build.complete import left_out, refuse_incomplete
from fp8scope.build.order import Events, Format
from fp8scope.errors import BadModel, GateFailed
from fp8scope.runtime.fp8.checkpoint import load_fp8
from tests import models
from tests.build.planned import Scanned, mixed_plan, scan, tokens
from tests.cli import folders
from tests.tokenizers import byte_tokenizer

STATIC = ("fp8_smooth", "fp8_tensor", "bf16")
SHAPES = {"a.0.q.weight": (3, 2), "a.0.q.bias": (3,)}


def test_a_whole_one_passes() -> None:
    refuse_incomplete(SHAPES, {**SHAPES, "a.0.q.weight_scale": (), "a.0.attn.k_scale": ()})


@pytest.mark.parametrize(
    ("built", "what"),
    [
        ({"a.0.q.weight": (3, 2)}, r"a\.0\.q\.bias is not there"),
        ({**SHAPES, "a.0.q.weight": (2, 3)}, r"a\.0\.q\.weight is \[2, 3\], the model's is \[3, 2"),
        (
            {**SHAPES, "lm_head.weight": (9, 2)},
            r"lm_head\.weight is there, which the model has not",
        ),
    ],
)
def test_what_is_not_the_model_is_refused(built: dict[str, tuple[int, ...]], what: str) -> None:
    with pytest.raises(GateFailed, match=what):
        refuse_incomplete(SHAPES, built)


def test_blocks_that_were_left_out() -> None:
    own = ["decoder.layers.0.fc1.weight", "decoder.layers.0.fc2.weight", "lm_head.weight"]
    mtp = ["decoder.layers.1.eh_proj.weight", "mtp.layers.0.fc.weight"]
    built = [f"model.{name}" for name in own]
    assert left_out(own, built) == []
    assert left_out([*own, *mtp], built) == ["decoder.layers.1", "mtp.layers.0"]
    assert left_out(built, own) == []


def model_in(folder: Path, model: Any) -> Path:
    """In bf16, with a tokenizer."""
    model.to(torch.bfloat16).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def planned(folder: Path, **wishes: Any) -> tuple[Scanned, Path]:
    text = (tokens(models.VOCAB, seed) for seed in (0, 1))
    found = scan(folder, "bfloat16", *text)
    path = folder.parent / "plan.json"
    write_plan(*mixed_plan(found, STATIC, **wishes), path)
    return found, path


def llama(folder: Path) -> Path:
    return model_in(folder, models.build("llama", vocab_size=len(byte_tokenizer())))


def test_a_layer_for_speculative_decoding_is_told(tmp_path: Path) -> None:
    """transformers passes over it without a word, and its config still announces it."""
    folder = llama(tmp_path / "model")
    path = folder / "model.safetensors"
    more = {"model.layers.2.eh_proj.weight": torch.ones(3, 3)}
    save_file({**load_file(path), **more}, path, {"format": "pt"})
    _, plan = planned(folder)
    said: list[str] = []
    fp8scope.build_checkpoint(plan, tmp_path / "fp8", events=Events(warn=said.append))
    assert said == [
        "model.layers.2 of the model's files is not in it: transformers does not load that"
    ]


def test_from_python_with_the_model_elsewhere(tmp_path: Path) -> None:
    _, plan = planned(llama(tmp_path / "model"))
    moved = (tmp_path / "model").rename(tmp_path / "moved")
    built = fp8scope.build_checkpoint(
        str(plan), tmp_path / "fp8", model=str(moved), format="compressed-tensors"
    )
    assert built.diagnosis.healthy
    assert (tmp_path / "fp8" / "config.json").is_file()


@pytest.mark.parametrize("named", [None, [], ["LLaMAForCausalLM"], ["Llama", "LlamaForCausalLM"]])
def test_engines_are_told_the_architecture(named: list[str] | None, tmp_path: Path) -> None:
    """Also where the model's own config.json names none, or one that only its time knew."""
    folder = llama(tmp_path / "model")
    folders.edit_config(folder, architectures=named)
    _, plan = planned(folder)
    fp8scope.build_checkpoint(plan, tmp_path / "fp8")
    config = json.loads((tmp_path / "fp8" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_a_part_of_a_model_is_not_built_as_the_whole(tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    folders.edit_config(folder, architectures=["LlavaForConditionalGeneration"])
    _, plan = planned(folder)
    match = "names LlavaForConditionalGeneration, and transformers loads it as LlamaForCausalLM"
    with pytest.raises(BadModel, match=match):
        fp8scope.build_checkpoint(plan, tmp_path / "fp8")
    assert not (tmp_path / "fp8").exists()


def test_code_that_the_config_names_comes_along(tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    (folder / "modeling_llama.py").write_text("x = 1\n")
    _, plan = planned(folder)
    fp8scope.build_checkpoint(plan, tmp_path / "without")
    assert not (tmp_path / "without" / "modeling_llama.py").exists()
    folders.edit_config(folder, auto_map={"AutoConfig": "modeling_llama.Config"})
    _, plan = planned(folder)
    for _ in range(2):  # with it, it is still a build that may be overwritten
        fp8scope.build_checkpoint(plan, tmp_path / "fp8", force=True)
    assert (tmp_path / "fp8" / "modeling_llama.py").read_text() == "x = 1\n"


@pytest.mark.parametrize("form", get_args(Format))
def test_a_vision_tower_stays_as_it_was(form: Format, tmp_path: Path) -> None:
    """Its attention has no KV cache, which ModelOpt's glob for caches meets all the same."""
    folder = model_in(tmp_path / "model", models.build_gemma3_multimodal())
    _, plan = planned(folder, cache=True)
    fp8scope.build_checkpoint(plan, tmp_path / "fp8", format=form)
    own = load_file(folder / "model.safetensors")
    built = load_file(tmp_path / "fp8" / "model.safetensors")
    tower = {name for name in own if name.startswith("vision_tower.")}
    assert len(tower) > 30
    assert all(torch.equal(own[name], built[name]) for name in tower)
    assert len(load_fp8(tmp_path / "fp8").kv_scales) == 2
