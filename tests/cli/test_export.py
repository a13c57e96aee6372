"""export and check on the command line: what is printed, written and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests import models
from tests.cli.conftest import Fp8scope
from tests.export import plans, shapes

DOWN0 = shapes.DOWN0


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """Two blocks of a Llama in FP8 per tensor, but for one layer."""
    model = shapes.planned(shapes.llama(), "fp8_tensor", bf16=[DOWN0])
    return plans.write(plans.plan_of(model), tmp_path / "plan.json")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bf16")
    models.build("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A BF16 checkpoint of a Llama of two blocks, to write beside."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_export_prints_the_first_form_and_says_what_it_is(fp8scope: Fp8scope, plan: Path) -> None:
    ran = fp8scope("export", plan, "--to", "hf-quant-config")
    assert ran.code == 0
    assert json.loads(ran.out)["quantization"]["exclude_modules"] == [DOWN0, "lm_head"]
    assert ran.err.startswith("This is metadata of a finished checkpoint: it must describe")


def test_export_writes_the_form_of_the_files_name(
    fp8scope: Fp8scope, plan: Path, tmp_path: Path
) -> None:
    output = tmp_path / "recipe.yaml"
    ran = fp8scope("export", plan, "--to", "modelopt", "-o", output)
    assert (ran.code, ran.out) == (0, "")
    assert output.read_text().startswith("# a recipe: what a quantizer is told to make of a BF16")
    again = fp8scope("export", plan, "--to", "modelopt", "-o", output)
    assert again.code == 2
    assert "exists already → give another -o, or --force" in again.refusal
    assert fp8scope("export", plan, "--to", "modelopt", "-o", output, "--force").code == 0


def test_export_of_one_form_by_name(fp8scope: Fp8scope, plan: Path, tmp_path: Path) -> None:
    output = tmp_path / "config.json"
    words = ("export", plan, "--to", "hf-quant-config", "-o", output)
    assert fp8scope(*words, "--form", "flat").code == 0
    assert json.loads(output.read_text())["quant_method"] == "modelopt"
    refused = fp8scope(*words, "--form", "round", "--force")
    assert refused.code == 2
    assert "there is no form 'round' → one of nested, flat" in refused.refusal


def test_export_as_json_has_every_form(fp8scope: Fp8scope, plan: Path) -> None:
    ran = fp8scope("export", plan, "--to", "list", "--json")
    data = json.loads(ran.out)
    assert (data["consumer"], data["kind"]) == ("list", "list")
    assert data["about"]
    assert data["forms"]["text"]["text"].splitlines()[-2:] == [DOWN0, "lm_head"]


def test_export_refuses_with_the_nearest(fp8scope: Fp8scope, plan: Path, tmp_path: Path) -> None:
    output = tmp_path / "online.json"
    ran = fp8scope("export", plan, "--to", "vllm", "-o", output)
    assert ran.code == 2
    assert "--to hf-quant-config" in ran.refusal
    assert not output.exists()
    ran = fp8scope("export", plan, "--to", "tensorrt")
    assert "there is no consumer 'tensorrt' → one of compressed-tensors, hf-quant" in ran.refusal
    ran = fp8scope("export", tmp_path / "none.json", "--to", "list")
    assert ran.code == 2
    assert "none.json: cannot be read" in ran.refusal


def test_a_plan_that_holds(fp8scope: Fp8scope, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    ran = fp8scope("check", plan, "--for", "vllm", "--all")
    assert (ran.code, ran.err) == (0, "")
    assert "vllm 0.33.0, given what export --to hf-quant-config writes" in ran.out
    assert (
        "All 9 layers of vllm will run as plan.json says: 7 in FP8 per tensor, static, 2 in"
        in ran.out
    )
    rows = [line.split() for line in ran.out.splitlines()]
    assert [DOWN0, "BF16", "BF16"] in rows


def test_a_list_that_reaches_too_far(
    fp8scope: Fp8scope, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    config = tmp_path / "hf_quant_config.json"
    excluded = ["lm_head", "mlp.gate"]
    config.write_text(
        json.dumps({"quantization": {"quant_algo": "FP8", "exclude_modules": excluded}})
    )
    mended = tmp_path / "mended.json"
    ran = fp8scope("check", config, "--for", "vllm", "--model", folder, "-o", mended)
    assert ran.code == 1
    assert (
        "exclude_modules “mlp.gate” also matches model.layers.0.mlp.gate_up_proj, "
        "model.layers.1.mlp.gate_up_proj, which should be FP8 per tensor, static"
    ) in ran.out
    assert (
        "2 of the 9 layers of vllm will not run as the list seems to mean, fused layers"
        in ran.refusal
    )
    assert json.loads(mended.read_text())["quantization"]["exclude_modules"] == ["lm_head"]
    again = fp8scope("check", mended, "--for", "vllm", "--model", folder)
    assert again.code == 0


def test_check_as_json(fp8scope: Fp8scope, folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "fp8.json"
    fp8 = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["down_proj"]}
    config.write_text(json.dumps(fp8))
    ran = fp8scope("check", config, "--for", "vllm", "--model", folder, "--json")
    assert ran.code == 1
    data = json.loads(ran.out)
    assert not data["holds"]
    (fault,) = data["faults"]
    assert fault["kind"] == "nothing"
    assert len(fault["layers"]) == models.LAYERS
    mended = json.loads(data["corrected"]["forms"]["json"]["text"])
    assert mended["ignored_layers"][:2] == [DOWN0, "model.layers.1.mlp.down_proj"]
    wanted = {row["name"]: (row["wanted"], row["will_run"]) for row in data["layers"]}
    assert wanted[DOWN0] == ("bf16", "fp8_tensor")


def test_a_checkpoint_whose_list_does_not_describe_its_weights(
    fp8scope: Fp8scope, folder: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": []}
    (folder / "config.json").write_text(json.dumps(config))
    ran = fp8scope("check", folder, "--for", "vllm")
    assert ran.code == 1
    assert "9 of the 9 layers of vllm will not run as the tensors of" in ran.refusal


def test_two_files_of_metadata_that_disagree(fp8scope: Fp8scope, plan: Path, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    flat = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": [DOWN0, "lm_head"]}
    config["quantization_config"] = flat
    (folder / "config.json").write_text(json.dumps(config))
    nested = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (folder / "hf_quant_config.json").write_text(json.dumps(nested))
    (folder / "plan.json").write_bytes(plan.read_bytes())
    for engine in "vllm", "trtllm":
        ran = fp8scope("check", folder, "--for", engine)
        assert ran.code == 1
        said = " ".join(ran.out.split())
        assert "says otherwise of 1 layers, such as model.layers.0.mlp.down_proj" in said


def test_refusals_of_check(fp8scope: Fp8scope, plan: Path, folder: Path) -> None:
    ran = fp8scope("check", plan, "--for", "hf-quant-config")
    assert "hf-quant-config is a form that others read → --for sglang or " in ran.refusal
    ran = fp8scope("check", plan, "--for", "vllm", "--version", "0.1")
    assert "what vllm 0.1 does is not known → its source was read at 0.33.0" in ran.refusal
    ran = fp8scope("check", plan, "--for", "vllm", "--as", "modelopt")
    assert "vllm does not read modelopt → one of hf-quant-config" in ran.refusal
    ran = fp8scope("check", folder, "--for", "vllm")
    assert "no quantization_config in config.json" in ran.refusal
    ran = fp8scope("check", folder / "config.json", "--for", "vllm", "--as", "vllm")
    assert ran.code == 2
    ran = fp8scope("check", plan, "--for", "vllm", "-o", folder / "x.json")
    assert (ran.code, ran.err) == (0, "nothing is to be mended, so nothing was written\n")
    assert not (folder / "x.json").exists()


def test_a_plan_that_a_consumer_has_no_words_for(fp8scope: Fp8scope, plan: Path) -> None:
    ran = fp8scope("check", plan, "--for", "torchao")
    assert ran.code == 2
    assert "torchao makes input scales at run time" in ran.refusal


def test_export_does_not_overwrite_the_plan(fp8scope: Fp8scope, plan: Path) -> None:
    before = plan.read_bytes()
    ran = fp8scope("export", plan, "--to", "list", "-o", plan, "--force")
    assert ran.code == 2
    assert "is the plan to export" in ran.refusal
    assert plan.read_bytes() == before


def test_modelopts_metadata_in_transformers_never_holds(
    fp8scope: Fp8scope, folder: Path, tmp_path: Path
) -> None:
    config = tmp_path / "c.json"
    config.write_text(json.dumps({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": []}))
    ran = fp8scope("check", config, "--for", "transformers", "--model", folder)
    assert ran.code == 1
    assert (
        "15 of the 15 layers of transformers will not run as the list seems to mean" in ran.refusal
    )
    assert "it loads FP8 values without scales" in " ".join(ran.out.split())


def test_a_vision_tower_does_not_say_what_the_decoder_should_be(
    fp8scope: Fp8scope, tmp_path: Path
) -> None:
    models.build_gemma3_multimodal().save_pretrained(tmp_path / "model")
    config = tmp_path / "c.json"
    flat = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}
    config.write_text(json.dumps(flat))
    ran = fp8scope("check", config, "--for", "vllm", "--model", tmp_path / "model")
    assert ran.code == 0
    assert "8 in FP8 per tensor, static" in " ".join(ran.out.split())


def test_a_class_of_modules_does_not_mean_routers(fp8scope: Fp8scope, tmp_path: Path) -> None:
    models.build("mixtral").save_pretrained(tmp_path / "model")
    config = tmp_path / "c.json"
    fp8 = {"num_bits": 8, "type": "float"}
    group = {
        "targets": ["Linear"],
        "weights": {**fp8, "strategy": "channel"},
        "input_activations": {**fp8, "strategy": "token", "dynamic": True},
    }
    data = {"config_groups": {"group_0": group}, "format": "float-quantized", "ignore": ["lm_head"]}
    config.write_text(json.dumps(data))
    ran = fp8scope("check", config, "--for", "vllm", "--model", tmp_path / "model")
    assert ran.code == 0
    assert "6 in FP8 per token, 3 in BF16" in " ".join(ran.out.split())
