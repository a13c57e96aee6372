"""Plans, checkpoints and configs that others wrote, told apart; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fp8scope.errors import BadInput
from fp8scope.export.consumer import CannotRead
from fp8scope.export.subject import read_subject, recognised
from tests import models
from tests.export import plans, shapes

FLAT = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small")
    models.build("llama").save_pretrained(path)
    return path


def _with_config(folder: Path, to: Path, **more: Any) -> Path:
    """The folder's model under `to`, with more in its config.json."""
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    config = json.loads((to / "config.json").read_text()) | more
    (to / "config.json").write_text(json.dumps(config))
    return to


@pytest.mark.parametrize(
    ("data", "form"),
    [
        ({"quantization": {"quant_algo": "FP8"}}, "hf-quant-config"),
        (FLAT, "hf-quant-config"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8"),
        ({"quant_method": "torchao", "quant_type": {}}, "torchao"),
        ({"quant_method": "fbgemm_fp8", "modules_to_not_convert": []}, "transformers"),
        ({"quant_cfg": [], "algorithm": "max"}, "modelopt"),
        (
            {"quant_stage": {"quant_modifiers": {"QuantizationModifier": {}}}},
            "llm-compressor",
        ),
        ({"a": {"layers": {}, "transformer_engine": {}}}, "transformer-engine"),
        ({"kv_cache_config": {"dtype": "fp8"}}, "trtllm"),
        ({"targets": {}}, "vllm"),
        ({"linear": "fp8_per_tensor"}, "vllm"),
        (["lm_head"], "list"),
    ],
)
def test_a_config_is_known_by_what_it_holds(data: Any, form: str) -> None:
    assert recognised(data, Path("x.json")) == form


@pytest.mark.parametrize("data", [{}, {"hidden_size": 3}, 3, None, "text", [1]])
def test_anything_else_is_refused(data: Any) -> None:
    with pytest.raises(CannotRead, match="no quantization config that fp8scope knows"):
        recognised(data, Path("x.json"))


def test_a_plan_says_what_is_wanted(tmp_path: Path) -> None:
    model = shapes.planned(shapes.llama(), "fp8_token", bf16=[shapes.DOWN0])
    path = plans.write(plans.plan_of(model), tmp_path / "plan.json")
    subject = read_subject(path, None)
    assert (subject.says, subject.configs) == ("plan.json says", {})
    assert {m.name for m in subject.model.in_treatment("bf16")} == {"lm_head", shapes.DOWN0}


def test_a_checkpoint_says_it_by_its_tensors(folder: Path, tmp_path: Path) -> None:
    path = _with_config(folder, tmp_path, quantization_config=FLAT)
    subject = read_subject(path, None)
    assert set(subject.configs) == {"config.json"}
    assert subject.model.wanted() == {"bf16"}
    assert subject.model.architecture == "LlamaForCausalLM"
    assert subject.says == f"the tensors of {path} say"


def test_a_checkpoint_says_it_by_the_plan_in_it(folder: Path, tmp_path: Path) -> None:
    path = _with_config(folder, tmp_path, quantization_config=FLAT)
    model = shapes.planned(shapes.llama(), "fp8_tensor")
    plans.write(plans.plan_of(model), path / "plan.json")
    subject = read_subject(path, None)
    assert subject.says == f"{path / 'plan.json'} says"
    assert subject.model.wanted() == {"fp8_tensor", "bf16"}


def test_both_files_of_metadata_are_found(folder: Path, tmp_path: Path) -> None:
    path = _with_config(folder, tmp_path, quantization_config=FLAT)
    (path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    assert set(read_subject(path, None).configs) == {"config.json", "hf_quant_config.json"}


def test_of_a_config_nobody_said_what_is_wanted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("quant_cfg: []\nalgorithm: max\n")
    subject = read_subject(tmp_path / "recipe.yaml", str(folder))
    assert subject.says == ""
    assert subject.model.wanted() == set()
    assert len(subject.model.modules) == 7 * models.LAYERS + 1


def test_lines_of_names(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bf16.txt").write_text("# a list\nlm_head\n\nmodel.layers.0\n")
    subject = read_subject(tmp_path / "bf16.txt", str(folder))
    assert subject.configs["bf16.txt"].data == ["lm_head", "model.layers.0"]


def test_refusals(folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(FLAT))

    def refused(path: Path, model: str | None, match: str) -> None:
        with pytest.raises(BadInput, match=match):
            read_subject(path, model)

    refused(tmp_path / "none.json", None, "there is no .*none.json")
    refused(recipe, None, "does not say what modules the model has → give .* with --model")
    refused(recipe, "nowhere", "there is no nowhere")
    refused(recipe, str(tmp_path / "a/b"), "there is no .*a/b")
    refused(recipe, str(recipe), "recipe.json is no plan")
    refused(folder, None, "no quantization_config in config.json, and no hf_quant_config.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"quant_cfg": [')
    refused(broken, str(folder), "neither JSON nor YAML")
    broken.write_bytes(b"\xff\xfe")
    refused(broken, str(folder), "cannot be read")
    (tmp_path / "broken.yaml").write_text("a: [")
    refused(tmp_path / "broken.yaml", str(folder), "neither JSON nor YAML")
    quantized = _with_config(folder, tmp_path, quantization_config=FLAT)
    refused(quantized, str(folder), "is a checkpoint, which has its own modules")


def test_a_foreign_method_beside_the_keys_of_modelopt() -> None:
    with pytest.raises(CannotRead, match="'awq', and the keys are ModelOpt's"):
        recognised({"quant_method": "awq", "quant_algo": "FP8"}, Path("x.json"))
    assert recognised({"quant_algo": "FP8"}, Path("x.json")) == "hf-quant-config"
