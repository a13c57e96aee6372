"""Folders and hub ids: what is loaded, what is refused, and whose code runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils._paths import filter_repo_objects
from torch import nn

from fp8scope.errors import BadInput, BadModel, Missing
from fp8scope.runtime.devices import check_device
from fp8scope.runtime.finite import refuse_nonfinite
from fp8scope.runtime.loading import LoadOptions, load
from fp8scope.runtime.structure import discover
from tests import models
from tests.cli import folders
from tests.tokenizers import byte_tokenizer

PHI3 = {
    "AutoConfig": "configuration_phi3.Phi3Config",
    "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
}
EXPLODES = "raise RuntimeError('code of the folder ran')"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.make(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    return folders.copy(llama, tmp_path / "model")


def refusal(folder: Path | str, **options: Any) -> BadModel:
    with pytest.raises(BadModel) as caught:
        load(str(folder), LoadOptions(**options))
    return caught.value


# --- whose code runs ---------------------------------------------------------------------------


@pytest.mark.parametrize("trust", [False, True])
def test_a_model_that_transformers_knows_runs_no_code_of_its_folder(
    tmp_path: Path, trust: bool
) -> None:
    tokenizer = byte_tokenizer()
    models.build("phi3", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    folders.edit_config(tmp_path, auto_map=PHI3)
    for name in ("configuration_phi3.py", "modeling_phi3.py"):
        (tmp_path / name).write_text(EXPLODES)
    loaded = load(str(tmp_path), LoadOptions(trust_remote_code=trust))
    assert type(loaded.model).__module__.startswith("transformers.models.phi3")
    assert discover(loaded.model, loaded.tensor_shapes).family == "phi3"


def test_an_unknown_model_with_code_needs_the_flag(folder: Path) -> None:
    folders.edit_config(folder, model_type="mystery", auto_map=PHI3)
    (folder / "configuration_phi3.py").write_text(EXPLODES)
    error = refusal(folder)
    assert "transformers has no mystery model" in error.what
    assert "--trust-remote-code" in error.remedy
    assert "code of the folder ran" in str(refusal(folder, trust_remote_code=True))


def test_a_tokenizer_with_code_needs_the_flag(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {
        "tokenizer_class": "MysteryTokenizer",
        "auto_map": {"AutoTokenizer": ["mystery.MysteryTokenizer", None]},
    }
    path.write_text(json.dumps(config))
    (folder / "tokenizer.json").unlink()
    (folder / "mystery.py").write_text(EXPLODES)
    error = refusal(folder)
    assert "tokenizer_config.json" in error.what
    assert "--trust-remote-code" in error.remedy
    assert "code of the folder ran" in str(refusal(folder, trust_remote_code=True))


# --- folders and the hub -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference",
    ["models/typo", "a/b/c", "./typo", "~nosuchuser/x", "x" * 300, "nul\0"],
)
def test_a_path_that_is_not_there_asks_no_hub(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked"))
    error = refusal(reference)
    assert error.what.startswith("there is no folder ")
    assert "hub id" in error.remedy


def test_a_name_that_no_hub_has_is_refused() -> None:
    error = refusal("foo bar/baz")
    assert error.what == "the hub has no model foo bar/baz"
    assert "give a model folder" in error.remedy


def test_not_found_is_bad_input_and_silence_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    error: Exception = RepositoryNotFoundError("404", response=Mock())

    def answer(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    assert refusal("org/name").what == "the hub has no model org/name"
    error = ConnectionError("name not resolved " * 30)
    with pytest.raises(Missing, match=r"\(name not resolved .*(name|not|resolved) …\) → check"):
        load("org/name", LoadOptions())


@pytest.mark.parametrize(("code", "pickles"), [(False, False), (True, True)])
def test_the_weights_are_fetched_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: bool, pickles: bool
) -> None:
    asked: dict[str, Any] = {}

    def fetch(hub_id: str, **patterns: Any) -> str:
        asked.update(patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    load("org/name", LoadOptions(trust_remote_code=code, allow_pickle=pickles))
    offered = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "consolidated.safetensors",
        "consolidated-00001-of-00002.safetensors",
        "original/model.safetensors",
        "original/consolidated.00.pth",
        "pytorch_model.bin",
        "modeling.py",
        "tokenizer.json",
        "model.gguf",
    ]
    expected = {"config.json", "model-00001-of-00002.safetensors", "tokenizer.json"}
    expected |= {"modeling.py"} if code else set()
    expected |= {"pytorch_model.bin"} if pickles else set()
    assert set(filter_repo_objects(offered, **asked)) == expected


# --- broken numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.self_attn.q_proj.bias"])
def test_nan_in_the_checkpoint_is_blamed_on_it(folder: Path, name: str) -> None:
    folders.edit_weights(folder, name, lambda t: t.index_fill(0, torch.tensor([3, 5]), torch.nan))
    error = refusal(folder, dtype="float32")
    assert error.what.startswith(f"{name} holds 2 inf or NaN: the checkpoint itself holds them")
    assert f"model.safetensors: {name}" in error.what


def test_an_overflow_of_the_asked_dtype_is_blamed_on_it(folder: Path) -> None:
    name = "model.embed_tokens.weight"
    folders.edit_weights(folder, name, lambda t: t.index_fill(0, torch.tensor([7]), 1e6))
    error = refusal(folder, dtype="float16")
    assert error.what.startswith(f"{name} overflows float16: {models.HIDDEN} of its values")
    assert error.remedy == "use --dtype bfloat16"
    load(str(folder), LoadOptions())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_broken_value_is_found_wherever_it_is(dtype: torch.dtype, value: float) -> None:
    module = nn.Module()
    module.ints = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
    module.none = nn.Parameter(torch.zeros(0, 4))
    module.table = nn.Parameter(torch.randn(37, 11, dtype=dtype))
    refuse_nonfinite(module)
    for place in (0, 1, 8, 17, 200, 37 * 11 - 1):
        with torch.no_grad():
            kept = module.table.view(-1)[place].clone()
            module.table.view(-1)[place] = value
            with pytest.raises(BadModel, match="table holds 1 inf or NaN"):
                refuse_nonfinite(module)
            module.table.view(-1)[place] = kept


# --- devices -----------------------------------------------------------------------------------


def test_a_device_is_looked_at_before_the_model() -> None:
    for device in ("gpu", "toaster", "meta"):
        with pytest.raises(BadInput, match="this torch can use: cpu"):
            load("/nowhere", LoadOptions(device=device))
    with pytest.raises(Missing, match=r"cannot use device cuda:77: .* this torch can use: cpu"):
        check_device("cuda:77")
