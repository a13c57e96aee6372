"""OPT's own files lack the prefix that transformers saves: a build says one thing throughout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from fp8scope.artefacts.plan import Plan
from fp8scope.build import modelopt
from fp8scope.build.compressed import write_compressed
from fp8scope.build.files import with_saved_names
from fp8scope.build.scales import static_scales
from fp8scope.checkpoint.planned import planned_model
from fp8scope.export.checking import export_plan
from fp8scope.runtime.loading import LoadOptions, load
from tests import models
from tests.build.planned import Scanned, mixed_plan, scan, tokens
from tests.tokenizers import byte_tokenizer


def _opt(folder: Path) -> Scanned:
    tokenizer = byte_tokenizer()
    model: Any = models.build("opt", vocab_size=len(tokenizer))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "model.safetensors"
    bare = {name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}
    save_file(bare, path, {"format": "pt"})
    return scan(folder, "bfloat16", tokens(len(tokenizer), 0), tokens(len(tokenizer), 1))


def _built(what: Scanned, plan: Plan, form: str, output: Path) -> dict[str, Any]:
    """The tensors in `output`, and what config.json is to say of them."""
    output.mkdir()
    model = load(str(what.folder), LoadOptions(dtype="bfloat16")).model
    plan = with_saved_names(plan, model)
    if form == "compressed-tensors":
        config = write_compressed(model, plan, static_scales(model, plan), output)
    else:
        modelopt.quantize(model, plan, static_scales(model, plan))
        modelopt.export(model, output, 10**9)
        config = json.loads(export_plan(plan, "hf-quant-config").forms["flat"].text)
    of_model = json.loads((what.folder / "config.json").read_text())
    (output / "config.json").write_text(json.dumps({**of_model, "quantization_config": config}))
    return config


@pytest.mark.parametrize("form", ["modelopt", "compressed-tensors"])
def test_one_name_for_every_linear(form: str, tmp_path: Path) -> None:
    what = _opt(tmp_path / "model")
    plan, _ = mixed_plan(what, ("fp8_tensor", "fp8_tensor", "bf16"), cache=False)
    assert planned_model(plan).modules[0].name.startswith("decoder.layers.0.")
    output = tmp_path / "fp8"
    config = _built(what, plan, form, output)
    tensors = load_file(output / "model.safetensors")
    modules = planned_model(with_saved_names(plan, _true(what))).modules
    quantized = {f"{m.name}.weight" for m in modules if m.wanted not in {None, "bf16"}}
    assert quantized == {name for name, tensor in tensors.items() if tensor.itemsize == 1}
    assert all(name.startswith("model.decoder.layers.") for name in quantized)
    listed = {m.name for m in modules if m.wanted in {None, "bf16"}} - {"lm_head"}
    assert listed
    assert listed <= set(config["ignore"])
    if form == "compressed-tensors":
        loader: Any = AutoModelForCausalLM
        model, info = loader.from_pretrained(output, dtype=torch.float32, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        ids = models.token_ids(2, 12)
        got, true = (models.logits(each, ids) for each in (model, _true(what)))
        error = (got - true).norm() / true.norm()
        assert 0.005 < float(error) < 0.2


def _true(what: Scanned) -> Any:
    return AutoModelForCausalLM.from_pretrained(what.folder, dtype=torch.float32)
