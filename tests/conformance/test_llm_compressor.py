"""Our model of llm-compressor's recipes against what it made of them, as recorded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import CannotRead, Config, Reading
from fp8scope.export.consumers import llm_compressor
from tests.export import mixes
from tests.export.shapes import mixtral

(VERSION,) = llm_compressor.CONSUMER.versions
TABLE = Path(__file__).parent / "tables" / f"llm-compressor-{VERSION}.json"
TREATMENTS: dict[str, Treatment] = {
    "float8 tensor static; float8 tensor static": "fp8_tensor",
    "float8 tensor static; float8 tensor dynamic": "fp8_tensor_dynamic",
    "float8 tensor static; float8 token dynamic": "fp8_tensor_dynamic",
    "float8 channel static; float8 token dynamic": "fp8_token",
    "float8 block static; float8 group dynamic": "fp8_block",
}


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE.read_text())
    return found


def _read(text: str, model: Model) -> Reading:
    config = Config("llm-compressor", yaml.safe_load(text), "recipe.yaml")
    return llm_compressor.read(config, model, VERSION)


def _theirs(case: dict[str, Any], names: list[str]) -> dict[str, Treatment]:
    found: dict[str, Treatment] = dict.fromkeys(names, "bf16")
    for words, numbers in case["quantized"].items():
        found.update({names[number]: TREATMENTS.get(words, "other") for number in numbers})
    return found


def _ours(reading: Reading) -> dict[str, Treatment | None]:
    return {layer.name: reading.outcome(layer).treatment for layer in reading.layers}


def test_every_recorded_recipe(table: dict[str, Any]) -> None:
    model, names = mixtral(), table["names"]
    refused, read = 0, 0
    for case in table["cases"]:
        if "recipe" not in case:
            continue
        if "error" in case:
            refused += 1
            with pytest.raises(CannotRead):
                _read(case["recipe"], model)
        else:
            read += 1
            assert _ours(_read(case["recipe"], model)) == _theirs(case, names), case["recipe"]
    assert read >= 350
    assert refused >= 50
    assert read + refused == 600


def test_what_we_write_is_taken_as_it_is_meant(table: dict[str, Any]) -> None:
    recorded = {case["sha256"]: case for case in table["cases"] if "sha256" in case}
    for name, model in mixes.MODELS.items():
        text = llm_compressor.write(model).forms["yaml"].text
        case = recorded.get(hashlib.sha256(text.encode()).hexdigest())
        assert case is not None, f"record again: the recipe of {name} has changed"
        assert "error" not in case
        if name == "mixtral":  # the model that it was recorded on
            assert _theirs(case, table["names"]) == _wanted(model)


def _wanted(model: Model) -> dict[str, Treatment]:
    return {layer.name: layer.modules[0].wanted or "bf16" for layer in _read("{}", model).layers}
