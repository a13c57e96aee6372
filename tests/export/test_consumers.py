"""What all consumers have in common: every plan is expressed exactly, or refused with a remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fp8scope.core.modules import Model, Treatment
from fp8scope.errors import BadInput
from fp8scope.export.consumer import CannotExpress, Config, Document
from fp8scope.export.proof import prove
from fp8scope.export.registry import all_consumers, consumer, names
from tests.export import shapes

TO = [
    "compressed-tensors", "hf-quant-config", "list", "llm-compressor", "modelopt", "sglang",
    "torchao", "transformer-engine", "transformers", "trtllm", "vllm",
]  # fmt: skip
ATTENTION1 = ["model.layers.1.self_attn.qkv_proj", "model.layers.1.self_attn.o_proj"]
SHAPES = {"llama": shapes.llama(), "phi3": shapes.phi3(), "mixtral": shapes.mixtral()}
TREATMENTS: tuple[Treatment, ...] = ("fp8_tensor", "fp8_token", "fp8_block")


def test_a_consumer_is_a_file() -> None:
    assert list(names()) == TO
    for each in all_consumers():
        stem = each.name.replace("-", "_")
        assert (each.write, each.about) != (None, "")
        assert Path(f"fp8scope/export/consumers/{'list_' if stem == 'list' else stem}.py").exists()


def test_no_such_consumer() -> None:
    with pytest.raises(BadInput, match=r"no consumer 'vlm' → one of compressed-tensors, .*, vllm"):
        consumer("vlm")


def _wanted(shape: str, treatment: Treatment) -> Model:
    return shapes.planned(SHAPES[shape], treatment, [*ATTENTION1, "model.layers.1.mlp.experts"])


def _expressed(name: str, model: Model) -> Document | None:
    """None where it is refused, which must say what to do."""
    write = consumer(name).write
    assert write is not None
    try:
        return write(model)
    except CannotExpress as refusal:
        remedy = refusal.remedy
    assert remedy
    return None


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TO)
def test_written_and_read_back_it_is_what_was_wanted(
    name: str, shape: str, treatment: Treatment
) -> None:
    """By the consumer itself, or by one of those that read the form."""
    model = _wanted(shape, treatment)
    document = _expressed(name, model)
    if document is None:
        return
    for form in document.forms.values():
        assert form.suffix.startswith(".")
        assert form.text.strip()
    readers = [each for each in all_consumers() if name in each.reads]
    config = Config(name, document.config, "made here")
    proofs = [prove(each.reads[name](config, model, each.versions[-1])) for each in readers]
    assert name == "list" or any(proof.holds for proof in proofs)


EXPRESSED = {
    "compressed-tensors": {"fp8_tensor", "fp8_token", "fp8_block"},
    "hf-quant-config": {"fp8_tensor", "fp8_token", "fp8_block"},
    "list": {"fp8_tensor", "fp8_token", "fp8_block"},
    "llm-compressor": {"fp8_tensor", "fp8_token", "fp8_block"},
    "modelopt": {"fp8_tensor", "fp8_token", "fp8_block"},
    "sglang": {"fp8_token"},
    "torchao": {"fp8_token", "fp8_block"},
    "transformer-engine": {"fp8_tensor", "fp8_block"},
    "transformers": {"fp8_token", "fp8_block"},
    "trtllm": {"fp8_tensor", "fp8_token", "fp8_block"},
    "vllm": {"fp8_token", "fp8_block"},
}


@pytest.mark.parametrize("name", TO)
def test_what_each_has_words_for(name: str) -> None:
    found = {each for each in TREATMENTS if _expressed(name, _wanted("llama", each)) is not None}
    assert found == EXPRESSED[name]


@pytest.mark.parametrize("name", ["sglang", "torchao", "transformers", "vllm"])
def test_an_online_config_neither_folds_nor_calibrates_a_cache(name: str) -> None:
    model = shapes.planned(shapes.llama(), "fp8_token")
    for wish, what in ({"folded": True}, "the plan smooths"), ({"kv_cache": "fp8"}, "KV cache"):
        with pytest.raises(CannotExpress, match=what) as refusal:
            consumer(name).write(replace(model, **wish))  # type: ignore[misc]
        assert "--to hf-quant-config" in refusal.value.remedy
