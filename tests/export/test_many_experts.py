"""Lists as long as those of a large mixture of experts are read in seconds."""

from __future__ import annotations

import pytest

from fp8scope.core.modules import Treatment
from fp8scope.export.consumer import Config, Document
from fp8scope.export.consumers import compressed_tensors, hf_quant_config
from fp8scope.export.proof import prove
from fp8scope.export.registry import consumer
from tests.export import shapes

WRITERS = {"hf-quant-config": hf_quant_config.write, "compressed-tensors": compressed_tensors.write}


@pytest.mark.timeout(60)  # products of entries and names took minutes
@pytest.mark.parametrize(
    ("engine", "form", "treatment"),
    [
        ("sglang", "hf-quant-config", "fp8_tensor"),
        ("trtllm", "hf-quant-config", "fp8_tensor"),
        ("trtllm", "compressed-tensors", "fp8_token"),
    ],
)
def test_thousands_of_experts(engine: str, form: str, treatment: Treatment) -> None:
    model = shapes.planned(
        shapes.mixtral(experts=800), treatment, bf16=["model.layers.0.mlp.experts"]
    )
    document: Document = WRITERS[form](model)
    reader = consumer(engine)
    reading = reader.reads[form](Config(form, document.config, "x"), model, reader.versions[-1])
    proof = prove(reading)
    assert len(proof.rows) == 9
